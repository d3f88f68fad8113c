/** Row 41: the VM is in a state in which nothing of ours may touch it, or in which no guest runs. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { until } from '../../src/base/deadline.ts';
import { type DiskName, diskName } from '../../src/base/ids.ts';
import { MiB } from '../../src/base/units.ts';
import { type FixtureVm, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { backedUpVm, TWO_DISKS } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

interface State {
  readonly state: string;
  readonly args?: (t: Test) => string[];
  readonly enter?: (vm: FixtureVm) => Promise<unknown>;
  readonly exclude?: readonly DiskName[];
}

/** In these the disks stand still, and are the VM's own. */
const STILL: readonly State[] = [
  { state: 'prelaunch', args: () => ['-S'] },
  {
    state: 'shutdown',
    args: () => ['-no-shutdown', '-no-reboot'],
    enter: (vm) => vm.qmp.execute('system_reset'),
  },
  { state: 'io-error', args: bootFromBrokenDisk, exclude: [diskName('broken')] },
];

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a VM whose guest stands still is backed up, and not resumed`, async (t) => {
    for (const { state, args, enter, exclude } of STILL) {
      const vm = await stateVm(t, qemu, args?.(t) ?? []);
      const site = await testSite(t, { bin: qemuBin(qemu) });
      const resumed = vm.qmp.listen(({ name }) => name === 'RESUME');
      await enter?.(vm);
      const inState = async () => (await stateOf(vm)) === state || undefined;
      await until(inState, { what: `the state ${state}` });
      for (const { name } of vm.disks) await vm.write(name, 1, 0, MiB);
      for (const how of ['first', 'tracked']) {
        for (const { name } of vm.disks) await vm.write(name, 2, how.length * MiB, MiB);
        const point = await backUpWithTruth(site, vm, { exclude });
        t.match(point, { how, timings: { pauseMs: null } }, state);
        await expectTruth(t, site, vm, point);
      }
      t.equal(await stateOf(vm), state, 'it is as it was');
      t.strictSame(resumed.take(), [], 'and never ran');
      await expectClean(t, site, vm, { bitmaps: 1 });
    }
  });

  t.test(`QEMU ${qemu}: a VM that is being migrated here, or was migrated away, is refused`, async (t) => {
    const { vm, site } = await backedUpVm(t, qemu);
    const ended = vm.qmp.listen(({ name, data }) => name === 'MIGRATION' && data['status'] === 'completed');
    await vm.qmp.execute('migrate-set-capabilities', {
      capabilities: [{ capability: 'events', state: true }],
    });
    await vm.qmp.execute('migrate', { uri: 'exec:cat >/dev/null' });
    await ended.next({ timeoutMs: 20_000 });
    await t.rejects(site.backUp(vm), { code: 'vm-state' });
    const waiting = await testVm(t, { qemu, disks: TWO_DISKS, extraArgs: ['-incoming', 'defer'] });
    await t.rejects(site.backUp(waiting), { code: 'vm-state' });
    t.equal(await stateOf(vm), 'postmigrate');
    t.equal(await stateOf(waiting), 'inmigrate');
  });
}

function stateVm(t: Test, qemu: QemuVersion, extraArgs: readonly string[]): Promise<FixtureVm> {
  const disks = TWO_DISKS.map((disk) => ({ ...disk, sizeBytes: 16 * MiB }));
  return testVm(t, { qemu, disks, extraArgs });
}

/** The firmware's read of a boot disk fails, and QEMU stops the VM: blkdebug stands for broken storage. */
function bootFromBrokenDisk(t: Test): string[] {
  const image = join(tempDir(t), 'boot.raw');
  writeFileSync(image, Buffer.alloc(MiB));
  const broken = {
    driver: 'blkdebug',
    'node-name': 'broken',
    image: { driver: 'file', filename: image },
    'inject-error': [{ event: 'none', iotype: 'read', errno: 5 }],
  };
  const device = 'virtio-blk-pci,drive=broken,id=broken,rerror=stop,bootindex=0';
  return ['-blockdev', JSON.stringify(broken), '-device', device];
}

async function stateOf(vm: FixtureVm): Promise<string> {
  return ((await vm.qmp.execute('query-status')) as { status: string }).status;
}
