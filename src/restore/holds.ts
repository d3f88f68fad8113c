/** What of a VM's points is needed by files outside of the vault, and ending that on an operator's word. */
import { lstat } from 'node:fs/promises';
import { QmpvaultError } from '../base/errors.ts';
import { readQcow2Header } from '../image/qcow2-header.ts';
import { type Hold, isOfThisHost } from '../vault/holds.ts';
import type { VmFolder } from '../vault/vm-folder.ts';

export interface EndHold {
  /** Of the hold. */
  readonly id: string;
  /** Also if its files still need the point, or cannot be seen from here. */
  readonly force: boolean;
}

/** @throws point-unknown for no such hold; point-held when its files still need the point, or cannot be seen from here */
export async function endHold(folder: VmFolder, { id, force }: EndHold): Promise<Hold> {
  const holds = await folder.holds();
  const hold = holds.find((hold) => hold.id === id);
  if (hold === undefined) {
    const known = holds.map(({ id }) => id);
    throw new QmpvaultError(
      'point-unknown',
      `${folder.name} has no hold ${id}${known.length > 0 ? `; there are ${known.join(', ')}` : ''}`,
      { details: { hold: id, known } },
    );
  }
  if (!force) await refuseNeeded(hold);
  await folder.releaseHold(hold);
  return hold;
}

async function refuseNeeded(hold: Hold): Promise<void> {
  const { id, host, disks } = hold;
  const then = `If they are not wanted any more, repeat with --force`;
  if (!isOfThisHost(hold)) {
    throw new QmpvaultError(
      'point-held',
      `the files of ${id} are on ${host} and cannot be seen from here. ${then}`,
      {
        details: { hold: id, host },
      },
    );
  }
  for (const { path } of disks) {
    if ((await lstat(path).catch(() => null)) === null) continue;
    const { backingLink } = await readQcow2Header(path);
    if (backingLink === null) continue;
    throw new QmpvaultError(
      'point-held',
      `${path} still stands on ${backingLink}: fill or remove it first. ${then}`,
      {
        details: { hold: id, path, backingLink },
      },
    );
  }
}

/** Of files that were overwritten, and of an instant restore to the same place that was killed. */
export async function releaseReplaced(
  vm: VmFolder,
  holds: readonly Hold[],
  paths: readonly string[],
): Promise<void> {
  for (const hold of holds.filter(isOfThisHost)) {
    const replaced = hold.disks.filter(({ path }) => paths.includes(path)).map(({ name }) => name);
    if (replaced.length > 0) await vm.releaseHold(hold, replaced);
  }
}
