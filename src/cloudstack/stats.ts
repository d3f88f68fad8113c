/** How large the repository is, and how much of it is used. */
import { statfs } from 'node:fs/promises';
import { bounded } from '../base/deadline.ts';
import { messageOf, QmpvaultError } from '../base/errors.ts';
import { onShare } from '../operations/share.ts';
import { statsAnswer } from './answer.ts';
import type { StatsCall } from './call.ts';
import type { Site } from './site.ts';

const STATFS_MS = 30_000;

/** @returns what goes to stdout */
export async function stats({ repository }: StatsCall, site: Site): Promise<string> {
  return onShare(repository, site, async (path) => {
    const asked = statfs(path).catch((cause: unknown) => {
      throw new QmpvaultError('vault-unreadable', `asking for the size of ${path}: ${messageOf(cause)}`, {
        cause,
      });
    });
    const { signal } = site;
    return statsAnswer(
      await bounded(asked, {
        signal,
        timeoutMs: STATFS_MS,
        what: 'the size of the repository',
        code: 'vault-away',
      }),
    );
  });
}
