/** Row 23: scratch space runs out, or fails. */

import t from 'tap';
import { backUp } from '../../src/backup/backup.ts';
import { vmName } from '../../src/base/ids.ts';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { breakNode } from '../helpers/broken-node.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { expectUnharmed, GuestWriter } from '../helpers/guest-writer.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { smallTmpfs } from '../helpers/small-tmpfs.ts';
import { testVm } from '../helpers/vm.ts';

/** As the engine opens it (src/vm/scratch.ts): what a reopen has to repeat. */
const SCRATCH_OPTIONS = { discard: 'unmap', cache: { direct: false, 'no-flush': true } };

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: scratch that runs out ends the run and not the guest`, async (t) => {
    const vm = await testVm(t, { qemu, disks: [{ name: 'vda', sizeBytes: 128 * MiB }] });
    const scratchDir = smallTmpfs(t, 16 * MiB);
    const site = await testSite(t, { bin: qemuBin(qemu), scratchDir });
    await vm.write('vda', 1, 0, 96 * MiB);
    const first = await backUpWithTruth(site, vm);
    await vm.write('vda', 2, 0, 96 * MiB);

    const writer = await GuestWriter.start(vm, 'vda');
    const steps = async (step: Step) => {
      if (step === 'copying') await vm.write('vda', 3, 64 * MiB, 32 * MiB);
    };
    await t.rejects(site.backUp(vm, { bandwidth: 8 * MiB, steps }), { code: 'scratch-full' });
    await expectUnharmed(t, writer);
    await expectClean(t, site, vm, { bitmaps: 1 });

    let isFull = false;
    const fill = async (step: Step) => {
      if (step !== 'copying') return;
      isFull = true;
      await vm.write('vda', 3, 64 * MiB, 8 * MiB);
    };
    const limited = { ...site.engine, reachStep: fill, scratchLimitBytes: 2 * MiB };
    const request = { vm: vmName('vm1'), qmp: vm.qmpSocket, quiesce: 'auto', fullEvery: 10 } as const;
    await t.rejects(backUp(limited, site.vault, { ...request, bandwidth: 8 * MiB }, {}), {
      code: 'scratch-full',
      details: { limitBytes: 2 * MiB },
    });
    t.ok(isFull, 'the limit was reached');
    await expectClean(t, site, vm, { bitmaps: 1 });

    for (const iotype of ['write', 'read'] as const) {
      const guest = await GuestWriter.start(vm, 'vda');
      let scratch = '';
      const breaks = async (step: Step) => {
        if (step === 'moment') {
          const { nodes } = await vm.leftovers();
          scratch = nodes.find((node) => node.endsWith('-s0')) ?? '';
        }
        if (step !== (iotype === 'write' ? 'moment' : 'copying')) return;
        // What the job would have to read from scratch.
        if (iotype === 'read') await vm.write('vda', 4, 80 * MiB, MiB);
        // By its name it is a part of the run, and is taken out with it.
        await breakNode(
          vm.qmp,
          { node: scratch, as: `${scratch}-broken`, options: SCRATCH_OPTIONS },
          { iotype, error: 'EIO' },
        );
      };
      await t.rejects(site.backUp(vm, { full: true, bandwidth: 64 * MiB, steps: breaks }), {
        code: 'run-failed',
        // The guest's write broke the snapshot, or the job met the error before it.
        details: {
          error: iotype === 'write' ? 'Permission denied' : /Permission denied|Input\/output error/,
        },
      });
      await expectUnharmed(t, guest, `scratch fails in a ${iotype}`);
      await expectClean(t, site, vm, { bitmaps: 1 });
    }

    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'tracked');
    await expectTruth(t, site, vm, first);
    await expectTruth(t, site, vm, second);
  });
}
