/** Row 26: of two disks one fails, where it is read or where it is written; both are undone. */

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import type { QemuTools } from '../../src/image/tools.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { breakNode } from '../helpers/broken-node.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite, withEngine } from '../helpers/engine.ts';

import { GuestWriter } from '../helpers/guest-writer.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  for (const withoutSnapshot of [false, true]) {
    const way = withoutSnapshot ? ', read from the source,' : '';
    t.test(`QEMU ${qemu}: one target of two${way} fails, and both are undone`, async (t) => {
      const vm = await testVm(t, {
        qemu,
        disks: [
          { name: 'vda', sizeBytes: 64 * MiB },
          { name: 'vdb', sizeBytes: 64 * MiB },
        ],
      });
      const site = await testSite(t, { bin: qemuBin(qemu) });
      for (const { name } of vm.disks) await vm.write(name, 1, 0, 32 * MiB);
      const first = await backUpWithTruth(site, vm, { withoutSnapshot });
      for (const { name } of vm.disks) await vm.write(name, 2, 0, 32 * MiB);

      let fired = false;
      const steps = async (step: Step) => {
        if (step !== 'copying') return;
        const { nodes } = await vm.leftovers();
        const target = nodes.find((node) => node.endsWith('-t1'));
        await vm.qmp.execute('yank', { instances: [{ type: 'block-node', 'node-name': target }] });
        fired = true;
      };
      await t.rejects(site.backUp(vm, { bandwidth: 4 * MiB, steps, withoutSnapshot }), {
        code: 'run-failed',
        details: { disk: 1 },
      });
      t.ok(fired, 'the target failed');
      await expectClean(t, site, vm, { bitmaps: 1 });

      const second = await backUpWithTruth(site, vm, { withoutSnapshot });
      t.equal(second.how, 'tracked');
      await expectTruth(t, site, vm, first);
      await expectTruth(t, site, vm, second);
    });
  }

  t.test(
    `QEMU ${qemu}: of two disks one cannot be read, or written to the NAS: both are undone`,
    async (t) => {
      const { vm, site, first, change } = await backedUpVm(t, qemu);
      const { storageDaemon, fired } = failingDaemon(t, site.engine.tools);
      const writeFails = withEngine(site, { ...site.engine, tools: { ...site.engine.tools, storageDaemon } });
      let mend = async () => {};
      const steps = async (step: Step) => {
        if (step === 'targets') mend = await breakNode(vm, 'vdb', 'read');
      };
      for (const what of ['reads', 'writes'] as const) {
        const guest = await GuestWriter.start(vm, 'vda');
        const run =
          what === 'reads' ? site.backUp(vm, { full: true, steps }) : writeFails.backUp(vm, { full: true });
        await t.rejects(run, { code: 'run-failed' }, what);
        await guest.progress(5);
        const { errors, worstMs } = await guest.stop();
        t.strictSame(errors, [], 'no write of the guest failed');
        t.ok(worstMs < 1_000, `no write of the guest stalled (worst: ${worstMs.toFixed(1)} ms)`);
        if (what === 'reads') await mend();
        else t.ok(fired() > 0, 'there were errors');
        await expectClean(t, site, vm, { bitmaps: 1 });
        await change(3);
        const next = await backUpWithTruth(site, vm);
        t.equal(next.how, 'tracked');
        for (const point of [first, next]) await expectTruth(t, site, vm, point);
      }
    },
  );
}

/**
 * A writer whose writes fail from some on. Without io_uring and Linux AIO each of them is a system call. strace counts them
 * for each thread, and the writer's pool has many that make few.
 */
function failingDaemon(t: Test, tools: QemuTools): { storageDaemon: string; fired(): number } {
  const dir = tempDir(t);
  const log = join(dir, 'strace.log');
  const script = `#!/bin/sh
exec strace -D -f -qq -o ${log} -e trace=io_uring_setup,io_setup,pwrite64,pwritev \\
  -e inject=io_uring_setup,io_setup:error=ENOSYS -e inject=pwrite64,pwritev:error=EIO:when=3+ \\
  ${tools.storageDaemon} "$@"
`;
  const storageDaemon = join(dir, 'qemu-storage-daemon');
  writeFileSync(storageDaemon, script, { mode: 0o755 });
  const fired = () => readFileSync(log, 'latin1').split('EIO (Input/output error) (INJECTED)').length - 1;
  return { storageDaemon, fired };
}
