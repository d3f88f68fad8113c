/** Row 39: somebody takes a snapshot during a run, by device and by node, and restarts the VM. */

import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectTruth } from '../helpers/engine.ts';
import { takeSnapshot } from '../helpers/external-snapshot.ts';
import { expectUnharmed, GuestWriter } from '../helpers/guest-writer.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  for (const way of ['device', 'node'] as const) {
    t.test(
      `QEMU ${qemu}: a snapshot by ${way} during a run: not published, and the VM can start again`,
      async (t) => {
        const { vm, site, first } = await backedUpVm(t, qemu, {
          disks: [{ name: 'vda', sizeBytes: 64 * MiB, attach: 'nameless' }],
        });
        const file = join(vm.dir, 'during.qcow2');
        let taken = false;
        const steps = async (step: Step) => {
          if (step !== 'copying') return;
          const node = first.disks[0]?.source.node ?? '';
          await takeSnapshot(vm, way === 'device' ? { device: 'virtio0' } : { node }, file);
          taken = true;
        };
        const guest = await GuestWriter.start(vm, 'vda');
        const warned: string[] = [];
        const log = {
          debug() {},
          info() {},
          warn: (_: object, message: string) => void warned.push(message),
        };
        // 7.2 may refuse a read of the snapshot then ("Operation not supported"), before the run itself sees what happened.
        await t.rejects(site.backUp(vm, { steps, log }), { code: /run-overtaken|run-failed/ });
        t.ok(taken);
        await expectUnharmed(t, guest);
        if (way === 'device') {
          const command = warned.join('\n').match(/qemu-img rebase -u .*$/m)?.[0] ?? '';
          t.match(command, file, 'it is said how to mend the header');
          await vm.write('vda', 4, 40 * MiB, MiB);
          await vm.quit();
          await execa(join(vm.bin, 'qemu-img'), command.split(' ').slice(1));
        } else {
          await vm.write('vda', 4, 40 * MiB, MiB);
          await vm.quit();
        }
        await vm.restart({ images: { vda: file } });
        await vm.verify('vda', 4, 40 * MiB, MiB);
        const second = await backUpWithTruth(site, vm);
        t.equal(second.how, 'resynced');
        await expectTruth(t, site, vm, first);
        await expectTruth(t, site, vm, second);
      },
    );
  }
}
