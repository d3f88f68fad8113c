/**
 * Whether a process still gets on: qemu-img tells its progress a hundred times, which on a large disk is minutes apart;
 * the CPU time that it uses tells sooner. One that waits for a NAS that hangs uses none.
 */
import { readFile } from 'node:fs/promises';
import { untilAborted } from '../base/deadline.ts';
import { QmpvaultError } from '../base/errors.ts';

const LOOK_MS = 1_000;

/** Rejects when the process used no CPU time for `stallMs`. Ends with the process, or when `ended` is aborted. @throws run-stalled */
export async function watchCpuTime(
  pid: number,
  { stallMs, what, ended }: { stallMs: number; what: string; ended: AbortSignal },
): Promise<void> {
  let used = { ticks: -1, at: performance.now() };
  while (!ended.aborted) {
    const ticks = await cpuTicksOf(pid);
    if (ticks === null) return;
    if (ticks !== used.ticks) used = { ticks, at: performance.now() };
    if (performance.now() - used.at > stallMs) {
      throw new QmpvaultError('run-stalled', `${what} got no further for ${stallMs} ms: does the NAS hang?`, {
        details: { pid, afterMs: stallMs },
      });
    }
    await untilAborted(ended, Math.min(LOOK_MS, stallMs / 4));
  }
}

/** Fields 14 and 15 of proc(5) stat, in clock ticks; field 2, the command, may hold blanks and parentheses. */
async function cpuTicksOf(pid: number): Promise<number | null> {
  const text = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => null);
  if (text === null) return null;
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}
