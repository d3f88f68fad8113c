/** A VM of two disks that was backed up once and was written to since: what then happens to it, its test says. */
import type { Test } from 'tap';
import { MiB } from '../../src/base/units.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { type DiskSpec, type FixtureVm, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, type TestSite, testSite } from './engine.ts';
import { testVm } from './vm.ts';

export const TWO_DISKS: readonly DiskSpec[] = [
  { name: 'vda', sizeBytes: 64 * MiB },
  { name: 'vdb', sizeBytes: 64 * MiB, attach: 'virtio-scsi' },
];
export const UUID = '11111111-2222-3333-4444-555555555555';

export interface BackedUpVm {
  readonly vm: FixtureVm;
  readonly site: TestSite;
  readonly first: Manifest;
  /** The guest writes to all its disks: to other places for other patterns. */
  change(pattern: number): Promise<void>;
  /** The bitmap of the first point on this disk. */
  bitmap(disk: string): { node: string; name: string };
}

export async function backedUpVm(
  t: Test,
  qemu: QemuVersion,
  {
    disks = TWO_DISKS,
    vault,
    extraArgs,
  }: { disks?: readonly DiskSpec[]; vault?: string; extraArgs?: readonly string[] } = {},
): Promise<BackedUpVm> {
  const vm = await testVm(t, { qemu, disks, uuid: UUID, ...(extraArgs && { extraArgs }) });
  const site = await testSite(t, { bin: qemuBin(qemu), ...(vault !== undefined && { vault }) });
  const change = async (pattern: number) => {
    for (const { name } of vm.disks) await vm.write(name, pattern, (pattern % 20) * MiB, 2 * MiB);
  };
  for (const { name } of vm.disks) await vm.write(name, 1, 0, 24 * MiB);
  const first = await backUpWithTruth(site, vm);
  await change(2);
  const bitmap = (disk: string) => {
    const found = first.disks.find(({ name }) => name === disk);
    return { node: found?.source.node ?? '', name: found?.bitmap?.name ?? '' };
  };
  return { vm, site, first, change, bitmap };
}

/** After something happened to the VM: the next point, thin on top of the first, is right, and tracked is the one after. */
export async function expectThinNext(t: Test, given: BackedUpVm, how: 'resynced' | 'tracked'): Promise<void> {
  const { vm, site, first, change } = given;
  await change(3);
  const second = await backUpWithTruth(site, vm);
  t.match(second, { how, parent: first.id });
  t.ok((second.disks[0]?.storedBytes ?? 0) < 8 * MiB, 'it is thin');
  await change(4);
  const third = await backUpWithTruth(site, vm);
  t.equal(third.how, 'tracked', 'and the next is tracked again');
  for (const point of [first, second, third]) await expectTruth(t, site, vm, point);
}

/** The same, and nothing is left but one bitmap on each disk. */
export async function expectCleanNext(
  t: Test,
  given: BackedUpVm,
  how: 'resynced' | 'tracked',
): Promise<void> {
  await expectThinNext(t, given, how);
  await expectClean(t, given.site, given.vm, { bitmaps: 1 });
}
