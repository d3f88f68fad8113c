/**
 * Keeping a VM from starting on an image for a moment: QEMU's own locks, held by a qemu-io that has it open for writing,
 * as if it were raw, and does nothing with it. A VM that starts meanwhile fails to, and has to be started again.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import { bounded } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';
import type { QemuTools } from './tools.ts';

const OPENING_MS = 30_000;

/** @throws vm-busy when somebody has it open */
export async function lockImage({ qemuIo }: QemuTools, path: string): Promise<AsyncDisposable> {
  // It dies with us, and ends when its input does.
  const args = ['--pdeathsig', 'KILL', qemuIo, '-f', 'raw', resolve(path)];
  const holder = spawn('setpriv', args, {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
  });
  const ended = once(holder, 'close');
  ended.catch(() => {});
  holder.stdin.on('error', () => {});
  let said = '';
  holder.stderr.on('data', (chunk: Buffer) => {
    said += chunk;
  });
  const release = async () => {
    holder.stdin.end();
    await bounded(ended, { timeoutMs: OPENING_MS, what: `the closing of ${path}` });
  };
  const what = `the lock of ${path}`;
  try {
    // Its prompt comes when the image is open.
    await bounded(Promise.race([once(holder.stdout, 'data'), ended]), { timeoutMs: OPENING_MS, what });
    if (holder.exitCode === null && said === '') return { [Symbol.asyncDispose]: release };
  } catch (error) {
    holder.kill('SIGKILL');
    throw error;
  }
  await release().catch(() => {});
  const reason = said.trim();
  const isTaken = /Failed to get .*lock/.test(reason);
  throw new QmpvaultError(
    isTaken ? 'vm-busy' : 'image-tool-failed',
    isTaken
      ? `${path} is in use, so a VM seems to run: stop it first`
      : `${what} could not be had: ${reason}`,
    { details: { path, reason } },
  );
}
