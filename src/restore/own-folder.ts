/** Folders of ours on this host, each for one process; what a killed engine left is found by that process's death. */
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isAliveIn } from '../image/detached-process.ts';
import { targetError } from './target.ts';

/** A process is started in its folder much sooner than that. */
const START_MS = 600_000;

/** @throws restore-failed */
export async function makeOwnFolder(dir: string): Promise<void> {
  try {
    await mkdir(dirname(dir), { recursive: true, mode: 0o711 });
    await mkdir(dir, { mode: 0o700 });
  } catch (error) {
    throw targetError(error, 'making', dir);
  }
}

/** Removes those of dead processes. @returns their names */
export async function sweepOwnFolders(parent: string, pattern: RegExp): Promise<string[]> {
  const names = (await readdir(parent).catch(() => [])).filter((name) => pattern.test(name));
  const removed: string[] = [];
  for (const name of names) {
    const dir = join(parent, name);
    const isAlive = (await isAliveIn(dir)) ?? (await isYoung(dir));
    if (isAlive) continue;
    await rm(dir, { recursive: true, force: true });
    removed.push(name);
  }
  return removed;
}

async function isYoung(dir: string): Promise<boolean> {
  const found = await stat(dir).catch(() => null);
  return found !== null && Date.now() - found.mtimeMs < START_MS;
}
