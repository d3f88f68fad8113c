/** Backing up a VM that does not run, from its images: clean up after the dead, then run. */
import { QmpvaultError } from '../base/errors.ts';
import { refuseInUse } from '../image/image-bitmaps.ts';
import type { BackupResult } from './engine.ts';
import { imagePlace } from './image-place.ts';
import { digestFulls } from './publish.ts';
import { isHere, release, removeStaging } from './release.ts';
import { readRunRecords } from './run-journal.ts';
import { type StoppedContext, StoppedRun } from './stopped-run.ts';

/** @throws vm-busy when a VM uses the images after all; run-overtaken when one began to; else as of a running VM */
export async function backUpStopped(context: Omit<StoppedContext, 'lease'>): Promise<BackupResult> {
  const { engine, folder, stopped, request, control } = context;
  if (request.quiesce === 'required') {
    throw new QmpvaultError(
      'vm-agent',
      `${folder.name} is stopped: there is no guest whose filesystems could be frozen`,
    );
  }
  await using lease = await folder.acquireLease({
    what: `a backup of ${folder.name}`,
    ...(control.signal && { signal: control.signal }),
  });
  for (const { image, format } of stopped.images) {
    await refuseInUse(engine.tools, { path: image, format });
  }
  const warnings = await reconcile({ ...context, lease });
  const run = new StoppedRun({ ...context, lease });
  try {
    const point = await run.make();
    warnings.push(...run.warnings);
    return { point: await digestFulls({ folder, lease, control }, point, warnings), warnings };
  } catch (error) {
    // The caller gets the error; what else happened is in the log.
    for (const warning of run.warnings) engine.log.warn({ vm: folder.name }, warning);
    throw error;
  }
}

/** Takes away what dead runs left, also those that read the VM while it ran. @returns warnings */
async function reconcile({ engine, vault, folder, lease, stopped }: StoppedContext): Promise<string[]> {
  const [records, leftovers, { points }] = await Promise.all([
    readRunRecords(engine.stateDir),
    folder.leftoverStaging(lease),
    folder.points(),
  ]);
  const warnings: string[] = [];
  for (const { record } of records) {
    // The lease says that none of this vault's runs is at work.
    if (!isHere(record, vault, folder)) continue;
    engine.log.info({ run: record.run }, 'cleaning up after a run whose engine died');
    const place = imagePlace(engine.tools, [...stopped.images.map(({ image }) => image), ...record.images]);
    const published = points.some((point) => point.run === record.run);
    warnings.push(...(await release(engine, place, record, { published })));
  }
  await removeStaging(leftovers, records);
  return warnings;
}
