/** VMs that do not run: backed up from their images, and going on where that left off once they run again. */
import t, { type Test } from 'tap';
import { MiB } from '../../src/base/units.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { type DiskSpec, type FixtureVm, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectTruth, type TestSite, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { expectCleanImages } from '../helpers/stopped.ts';
import { testVm } from '../helpers/vm.ts';

const DISKS: readonly DiskSpec[] = [
  { name: 'vda', sizeBytes: 64 * MiB },
  { name: 'vdb', sizeBytes: 64 * MiB, attach: 'virtio-scsi' },
];

interface Given {
  readonly vm: FixtureVm;
  readonly site: TestSite;
  readonly points: Manifest[];
  /** Writes to both disks of the running VM. */
  write(pattern: number): Promise<void>;
  /** Backs up, checks how, and keeps the point. */
  expect(how: Manifest['how']): Promise<Manifest>;
}

async function begin(t: Test, qemu: QemuVersion, disks = DISKS): Promise<Given> {
  const vm = await testVm(t, { qemu, disks });
  const site = await testSite(t, { bin: qemuBin(qemu) });
  const points: Manifest[] = [];
  const write = async (pattern: number) => {
    for (const { name } of vm.disks) await vm.write(name, pattern, (pattern % 20) * MiB, 2 * MiB);
  };
  const expect = async (how: Manifest['how']) => {
    const point = await backUpWithTruth(site, vm);
    t.equal(point.how, how, point.why);
    points.push(point);
    return point;
  };
  return { vm, site, points, write, expect };
}

async function expectAllTrue(t: Test, { site, vm, points }: Given): Promise<void> {
  for (const point of points) await expectTruth(t, site, vm, point);
}

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: stopped, started and stopped again, every increment is tracked`, async (t) => {
    const given = await begin(t, qemu);
    const { vm, write, expect } = given;
    await write(1);
    await expect('first');
    await write(2);
    await vm.quit();
    const stopped = await expect('tracked');
    t.ok((stopped.disks[0]?.copiedBytes ?? 0) <= 3 * MiB, 'what changed is copied, and the pattern');
    await expectCleanImages(t, given.site, vm, { bitmaps: 1 });
    await expect('tracked');
    await vm.restart();
    await write(3);
    await expect('tracked');
    await write(4);
    await vm.quit();
    await expect('tracked');
    await expectAllTrue(t, given);
    await expectCleanImages(t, given.site, vm, { bitmaps: 1 });
  });
}
