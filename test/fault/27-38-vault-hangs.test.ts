/**
 * Rows 27 and 38: the NAS hangs, so the writer hangs, and while it does the guest is reset, stopped and continued, or QEMU
 * told to quit, from outside.
 */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { backUp } from '../../src/backup/backup.ts';
import { vmName } from '../../src/base/ids.ts';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { slowNode } from '../helpers/broken-node.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite, writerPid } from '../helpers/engine.ts';
import { expectUnharmed, GuestWriter } from '../helpers/guest-writer.ts';
import { TARGET_OPTIONS, targetNode, withOpenWriter } from '../helpers/open-writer.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { qmpProxy } from '../helpers/qmp-proxy.ts';
import { testVm } from '../helpers/vm.ts';

const NO_PROGRESS_MS = 2_000;

const outside: [string, readonly string[]][] = [
  ['nobody does anything, and QEMU does not hear that it shall let go of it', []],
  ['the guest is reset', ['system_reset']],
  ['the VM is stopped and continued', ['stop', 'cont']],
];

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  for (const [what, commands] of outside) {
    t.test(`QEMU ${qemu}: the NAS hangs, and ${what}`, async (t) => {
      const vm = await testVm(t, {
        qemu,
        disks: [
          { name: 'vda', sizeBytes: 64 * MiB },
          { name: 'vdb', sizeBytes: 64 * MiB, attach: 'virtio-scsi', iothread: true },
        ],
      });
      const site = await testSite(t, { bin: qemuBin(qemu) });
      for (const { name } of vm.disks) await vm.write(name, 1, 16 * MiB, 32 * MiB);
      const first = await backUpWithTruth(site, vm);
      for (const { name } of vm.disks) await vm.write(name, 2, 16 * MiB, 16 * MiB);

      const writer = await GuestWriter.start(vm, 'vda');
      let hung = 0;
      let unheard = 0;
      // Where yank cannot do it, as on a host that is too busy to answer, the death of the writer must.
      const { path } = await qmpProxy(t, vm.qmpSocket, {
        onCommand: (name) => {
          if (commands.length > 0 || name !== 'query-yank') return undefined;
          unheard += 1;
          return 'unheard';
        },
      });
      const run = site.backUp(vm, {
        qmp: path,
        noProgressMs: NO_PROGRESS_MS,
        steps: async (step) => {
          if (step !== 'targets') return;
          hung = await writerPid(site);
          process.kill(hung, 'SIGSTOP');
        },
      });
      run.catch(() => {});
      await writer.progress(50);
      while (hung === 0) await writer.progress();
      for (const command of commands) await vm.qmp.execute(command);
      await t.rejects(run, { code: 'run-stalled' });
      await writer.progress(5);
      await expectUnharmed(t, writer);
      t.not(hung, 0, 'the writer was stopped');
      t.equal(unheard > 0, commands.length === 0);
      await expectClean(t, site, vm, { bitmaps: 1 });

      const second = await backUpWithTruth(site, vm);
      t.equal(second.how, 'tracked');
      await expectTruth(t, site, vm, first);
      await expectTruth(t, site, vm, second);
    });
  }

  t.test(
    `QEMU ${qemu}: the NAS hangs when all is copied, and closing would have to wait for it`,
    async (t) => {
      const vm = await testVm(t, { qemu, disks: [{ name: 'vda', sizeBytes: 64 * MiB }] });
      const site = await testSite(t, { bin: qemuBin(qemu) });
      await vm.write('vda', 1, 16 * MiB, 32 * MiB);
      const first = await backUpWithTruth(site, vm);
      await vm.write('vda', 2, 16 * MiB, 16 * MiB);
      const writer = await GuestWriter.start(vm, 'vda');
      const controller = new AbortController();
      let hung = 0;
      const steps = async (step: Step) => {
        if (step !== 'copied') return;
        hung = await writerPid(site);
        process.kill(hung, 'SIGSTOP');
        // The storage daemon's own commands have 30 s; the caller may not have them.
        controller.abort();
      };
      await t.rejects(site.backUp(vm, { steps, signal: controller.signal }), { code: 'cancelled' });
      t.not(hung, 0, 'the writer was stopped');
      await expectUnharmed(t, writer);
      await expectClean(t, site, vm, { bitmaps: 1 });
      const second = await backUpWithTruth(site, vm);
      t.equal(second.how, 'tracked');
      for (const point of [first, second]) await expectTruth(t, site, vm, point);
    },
  );

  t.test(`QEMU ${qemu}: the NAS hangs, and QEMU is told to quit`, async (t) => {
    const { vm, site, first, change } = await backedUpVm(t, qemu);
    let quitMs = 0;
    let quitting: Promise<void> | undefined;
    const steps = async (step: Step) => {
      if (step === 'targets') process.kill(await writerPid(site), 'SIGSTOP');
      if (step !== 'copying') return;
      const began = performance.now();
      quitting = vm.quit().then(() => {
        quitMs = performance.now() - began;
      });
    };
    await t.rejects(site.backUp(vm, { full: true, steps }), { code: /vm-lost|run-stalled/ });
    await quitting;
    t.ok(quitMs > 0 && quitMs < 5_000, `it ended (after ${Math.round(quitMs)} ms)`);
    await vm.restart();
    await change(3);
    const next = await backUpWithTruth(site, vm);
    t.equal(next.parent, first.id);
    for (const point of [first, next]) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  t.test(`QEMU ${qemu}: the NAS hangs while contents are compared`, async (t) => {
    const vm = await testVm(t, { qemu, disks: [{ name: 'vda', sizeBytes: 64 * MiB }] });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    await vm.write('vda', 1, 16 * MiB, 32 * MiB);
    const first = await backUpWithTruth(site, vm);
    for (const { node, name } of (await vm.leftovers()).bitmaps) {
      await vm.qmp.execute('block-dirty-bitmap-remove', { node, name });
    }
    await vm.write('vda', 2, 16 * MiB, MiB);
    const qemuImg = join(site.dir, 'hanging-qemu-img');
    const real = site.engine.tools.qemuImg;
    writeFileSync(qemuImg, `#!/bin/sh\n[ "$1" = rebase ] && kill -STOP $$\nexec ${real} "$@"\n`, {
      mode: 0o755,
    });
    const hanging = { ...site.engine, tools: { ...site.engine.tools, qemuImg } };
    const request = { vm: vmName('vm1'), qmp: vm.qmpSocket, quiesce: 'auto', fullEvery: 10 } as const;
    const run = backUp(hanging, site.vault, { ...request, noProgressMs: 1_000 }, {});
    await t.rejects(run, { code: 'run-stalled' });
    await expectClean(t, site, vm, { bitmaps: 0 });
    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'resynced');
    for (const point of [first, second]) await expectTruth(t, site, vm, point);
  });
}

/** For all disks together. */
const SLOW_BYTES = MiB;

t.test('a NAS that is slow is not taken for one that hangs, and the guest does not notice', async (t) => {
  // Both at once: they wait.
  const runs = qemuVersions(['7.2', '11.1']).map(async (qemu) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'vda', sizeBytes: 64 * MiB },
        { name: 'vdb', sizeBytes: 64 * MiB, attach: 'virtio-scsi', iothread: true },
      ],
    });
    const site = withOpenWriter(t, await testSite(t, { bin: qemuBin(qemu) }));
    for (const { name } of vm.disks) await vm.write(name, 1, 16 * MiB, 2 * MiB);
    const guest = await GuestWriter.start(vm, 'vda');
    let slowed = 0;
    const steps = async (step: Step) => {
      if (step !== 'targets') return;
      const writer = await site.monitor();
      const limits = { 'bps-write': SLOW_BYTES };
      await writer.execute('object-add', { 'qom-type': 'throttle-group', id: 'slow', limits });
      for (const nth of [0, 1]) {
        await slowNode(writer, { node: targetNode(nth), options: TARGET_OPTIONS }, 'slow');
        slowed += 1;
      }
    };
    const { point } = await site.backUp(vm, { steps });
    t.equal(slowed, 2);
    await expectUnharmed(t, guest, qemu);
    t.ok(point.timings.copyMs > 6_000, `${qemu}: it was slow (${Math.round(point.timings.copyMs)} ms)`);
    await expectClean(t, site, vm, { bitmaps: 1 });
    const next = await backUpWithTruth(site, vm);
    t.equal(next.how, 'tracked');
    await expectTruth(t, site, vm, next);
  });
  await Promise.all(runs);
});
