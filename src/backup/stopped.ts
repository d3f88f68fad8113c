/** Backing up a VM that does not run, from its images: clean up after the dead, then run. */
import { QmpvaultError } from '../base/errors.ts';
import { refuseInUse } from '../image/image-bitmaps.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { BackupResult } from './engine.ts';
import { imagePlace } from './image-place.ts';
import { digestFulls } from './publish.ts';
import { isHere, type Reconciled, removeStaging, takeBack } from './release.ts';
import { begunBefore } from './resume.ts';
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
  const dead = await reconcile({ ...context, lease });
  const warnings = [...dead.warnings];
  const begun = await begunBefore(folder, request, dead.points);
  const made = begun ?? (await makePoint({ ...context, lease }, warnings));
  const point = await digestFulls({ folder, lease, control }, made, warnings);
  return { point, adopted: dead.points.at(-1) ?? null, warnings };
}

async function makePoint(context: StoppedContext, warnings: string[]): Promise<Manifest> {
  const run = new StoppedRun(context);
  try {
    const point = await run.make();
    warnings.push(...run.warnings);
    return point;
  } catch (error) {
    // The caller gets the error; what else happened is in the log.
    for (const warning of run.warnings) context.engine.log.warn({ vm: context.folder.name }, warning);
    throw error;
  }
}

/** Takes away what dead runs left, also those that read the VM while it ran. */
async function reconcile({ engine, vault, folder, lease, stopped }: StoppedContext): Promise<Reconciled> {
  const [records, leftovers, { points }] = await Promise.all([
    readRunRecords(engine.stateDir),
    folder.leftoverStaging(lease),
    folder.points(),
  ]);
  const made: Manifest[] = [];
  const warnings: string[] = [];
  for (const { record } of records) {
    // The lease says that none of this vault's runs is at work.
    if (!isHere(record, vault, folder)) continue;
    const place = imagePlace(engine.tools, [...stopped.images.map(({ image }) => image), ...record.images]);
    const point = points.find(({ run }) => run === record.run);
    if (point !== undefined) made.push(point);
    const published = point !== undefined;
    warnings.push(...(await takeBack(engine, place, record, { published })));
  }
  await removeStaging(leftovers, records);
  return { points: made, warnings };
}
