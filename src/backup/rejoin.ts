/**
 * Finishing the point of a run whose engine died. Its jobs went on copying and its writer went on writing: they are
 * found by the run's id and its folder, and the run goes the rest of its way as if nothing had happened.
 *
 * That our fsync is the first to tell of lost bytes holds for a new engine too, as long as the dead one had not begun
 * its own. Until then the writer lives: an fsync of its own that failed it never forgets, and says so when it closes
 * (`Writer.finish`); one that nobody made yet is reported to the descriptors that are opened here.
 */
import { bounded } from '../base/deadline.ts';
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { Writer } from '../image/writer.ts';
import { isSealedChain } from '../vault/chain.ts';
import type { Manifest } from '../vault/manifest.ts';
import { CopyJobs } from '../vm/copy-jobs.ts';
import { TARGETS_PATIENCE_MS } from '../vm/main-loop.ts';
import { Run, type RunContext, sinceMs } from './run.ts';
import { type Captured, type RunRecord, readProgress } from './run-journal.ts';

/** The VM's disks may be open to a NAS that hangs: nothing looks after its guest before the jobs are followed. */
const OPEN_MS = 5_000;

/**
 * Under the lease, and with the owner proved dead: finishes its point, or takes back all that it made.
 * @returns null when it could not be finished; the warnings say why
 * @throws cancelled, vm-lost: then the caller cannot go on either
 */
export async function finishDeadRun(
  context: Omit<RunContext, 'beganMs'>,
  record: RunRecord,
  points: readonly Manifest[],
): Promise<{ readonly point: Manifest | null; readonly warnings: readonly string[] }> {
  const progress = await readProgress(context.engine.stateDir, record.run);
  const beganMs = performance.now() - sinceMs(record.began);
  const run = new Run({ ...context, beganMs }, record, progress);
  try {
    const point = await run.make(() => rejoin(run, points));
    const words = `run ${record.run}, whose engine died, was finished: its point is ${point.id}`;
    return { point, warnings: [words, ...run.warnings] };
  } catch (error) {
    if (['cancelled', 'vm-lost'].includes(codeOf(error) ?? '')) throw error;
    const became = run.held.staging?.isPublished
      ? 'was published, though not in order'
      : 'could not be finished and was taken back';
    const words = `run ${record.run}, whose engine died, ${became}: ${messageOf(error)}`;
    return { point: null, warnings: [words, ...run.warnings] };
  }
}

async function rejoin(run: Run, points: readonly Manifest[]): Promise<CopyJobs | null> {
  const { engine, vm, folder, lease, control } = run.context;
  const { folders, point, run: id } = run.facts;
  const { captured, copied, synced } = run.progress;
  if (captured === undefined) throw unfinishable('it had not begun to copy');
  const compared = captured.disks.find(({ plan }) => plan.how === 'resync');
  if (compared !== undefined && copied === undefined) {
    throw unfinishable(`the comparing of ${compared.disk.name}, which had lost its bitmap, ended with it`);
  }
  refuseOrphan(captured, points);
  await run.own();
  await engine.reachStep('rejoin');
  vm.client.patienceMs = TARGETS_PATIENCE_MS;
  if (!synced) {
    run.held.writer = await Writer.adopt({ dir: folders.writer, signal: control.signal });
    if (run.held.writer === null) throw unfinishable('its writer is gone');
  }
  const files = captured.disks.map(({ file }) => file);
  const opening = folder.rejoinStaging(point, lease, id, files);
  run.held.staging = await bounded(opening, { timeoutMs: OPEN_MS, what: 'the NAS', code: 'run-stalled' });
  const indexes = captured.disks.map(({ index }) => index);
  return copied === undefined ? CopyJobs.join(vm.client, id, indexes) : null;
}

/** Since the run's engine died somebody may have deleted the point that it stands on, or found it damaged. */
function refuseOrphan({ facts: { parent } }: Captured, points: readonly Manifest[]): void {
  if (parent === null) return;
  if (!points.some(({ id }) => id === parent)) throw unfinishable(`its parent ${parent} is gone`);
  if (isSealedChain(points, parent)) throw unfinishable(`the chain of its parent ${parent} is sealed`);
}

function unfinishable(why: string): QmpvaultError {
  return new QmpvaultError('run-failed', why);
}
