/**
 * Processes that still write to images for an engine that is dead. They die with it, unless they hang in the kernel
 * where the NAS does not answer: then they may write once more when it does. Whoever repeats what the dead engine
 * did makes sure first that none is left.
 */
import { readdir, readFile } from 'node:fs/promises';
import { sep } from 'node:path';
import { until } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';
import { PULL_FOLDER } from './pull.ts';

const DEATH_MS = 5_000;

/** @param folder of images, as it stands in the arguments of the tools @throws vault-locked when one does not die */
export async function endLeftoverTools(folder: string): Promise<void> {
  await until(
    async () => {
      const pids = await changersOf(folder);
      for (const pid of pids) killIfThere(pid);
      return pids.length === 0 ? true : undefined;
    },
    {
      timeoutMs: DEATH_MS,
      everyMs: 20,
      what: `the end of a qemu-img that still changes files in ${folder}: does the NAS answer?`,
      code: 'vault-locked',
    },
  );
}

async function changersOf(folder: string): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const text = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '');
    if (isChanger(text.split('\0')) && text.includes(folder + sep)) found.push(Number(name));
  }
  return found;
}

/** Those that only read, for a restore, are left alone. */
function isChanger(words: readonly string[]): boolean {
  const isTool = (name: string, what: (next: string) => boolean) =>
    words.some((word, i) => word.endsWith(name) && what(words[i + 1] ?? ''));
  return (
    isTool('qemu-img', (next) => next === 'commit' || next === 'rebase') ||
    (isTool('qemu-storage-daemon', (next) => next === '--blockdev') &&
      words.some((word) => word.includes(PULL_FOLDER)))
  );
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ESRCH') return;
    throw new QmpvaultError(
      'vault-locked',
      `process ${pid} of a dead run cannot be ended: end it, then repeat`,
      {
        details: { pid },
        cause,
      },
    );
  }
}
