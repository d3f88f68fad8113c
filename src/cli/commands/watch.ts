import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import { QmpvaultError } from '../../base/errors.ts';
import type { RpcClient } from '../../rpc/client.ts';
import type { Run } from '../../rpc/run.ts';
import type { Shell } from '../shell.ts';
import { statusText } from '../status-text.ts';

const LOOK_EVERY_MS = 1_000;
/** An ended run is shown for a while. */
const SHOWN_AFTER_END_MS = 15_000;

export function addWatch(program: Command, shell: Shell): void {
  program
    .command('watch')
    .description('the same as status, live on the terminal until Ctrl-C')
    .action(async (_options: unknown, command: Command) => {
      if (shell.output.isJson) {
        throw new QmpvaultError(
          'usage',
          "'watch' is for the eye: scripts ask 'status --json', or subscribe to runs",
        );
      }
      shell.interruption.doing('watching');
      await using daemon = await shell.daemon(command);
      await watch(shell, daemon);
    });
}

async function watch(shell: Shell, daemon: RpcClient): Promise<void> {
  const { signal } = shell.interruption;
  using screen = shell.output.screen();
  while (!signal.aborted) {
    const [status, { runs }] = await Promise.all([
      daemon.call('daemon.status', {}),
      daemon.call('run.list', { limit: 1000 }),
    ]);
    const now = new Date();
    screen.show(
      statusText(
        status,
        runs.filter((run) => isOfInterest(run, now)),
        now,
      ),
    );
    await delay(LOOK_EVERY_MS, undefined, { signal }).catch(() => {});
  }
}

function isOfInterest({ endedAt }: Run, now: Date): boolean {
  return endedAt === null || now.getTime() - Date.parse(endedAt) < SHOWN_AFTER_END_MS;
}
