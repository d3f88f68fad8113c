/** A bitmap of ours that somebody else's job is using: it is not lost, and not to be had before that job ends. */
import { until } from '../base/deadline.ts';
import { codeOf, QmpvaultError } from '../base/errors.ts';
import type { Vm } from '../vm/vm.ts';
import type { Survey } from './survey.ts';

/**
 * The survey of a VM when no bitmap that it goes by is in use.
 * @throws vm-busy naming the jobs when the time is up, and what `look` throws
 */
export async function surveyWhenFree(
  vm: Vm,
  look: () => Promise<Survey>,
  { signal, timeoutMs = 10_000 }: { signal?: AbortSignal | undefined; timeoutMs?: number | undefined },
): Promise<Survey> {
  let busy: string[] = [];
  const free = async () => {
    const found = await look();
    busy = busyDisks(found);
    return busy.length === 0 ? found : undefined;
  };
  try {
    return await until(free, { signal, timeoutMs, what: 'busy bitmaps', code: 'vm-busy', everyMs: 200 });
  } catch (cause) {
    if (codeOf(cause) !== 'vm-busy' || busy.length === 0) throw cause;
    const jobs = await vm.jobs();
    throw new QmpvaultError(
      'vm-busy',
      `the bitmap of ${busy.join(', ')} is in use by somebody else (jobs: ${jobs.join(', ') || 'none'}): wait for its end, or end it`,
      { details: { disks: busy, jobs }, cause },
    );
  }
}

function busyDisks({ disks, points }: Survey): string[] {
  const known = new Set<string>(
    points.flatMap((point) => point.disks.flatMap(({ bitmap }) => bitmap?.name ?? [])),
  );
  return disks
    .filter(({ disk }) => disk.bitmaps.some(({ busy, name }) => busy && known.has(name)))
    .map(({ disk }) => disk.name);
}
