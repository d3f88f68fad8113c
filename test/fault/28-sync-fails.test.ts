/** Row 28: fsync fails on the NAS. QEMU only prints that; the engine's own descriptors are told. */
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { cli } from '../helpers/cli.ts';
import { backUpWithTruth, expectClean, expectTruth } from '../helpers/engine.ts';
import { failCalls } from '../helpers/failing-calls.ts';
import { expectUnharmed, GuestWriter } from '../helpers/guest-writer.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

interface Case {
  readonly what: string;
  /** Where the engine is when fsync begins to fail. */
  readonly step: string;
  /** Below the VM's folder. */
  readonly path: string;
  readonly published: boolean;
}

const cases: readonly Case[] = [
  { what: 'a disk’s file', step: 'copied', path: '.staging-new/vdb.qcow2', published: false },
  { what: 'the folder that the new point was moved into', step: 'publish', path: '.', published: true },
];

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a failed fsync is never a success`, async (t) => {
    const { vm, site, first, change } = await backedUpVm(t, qemu);
    const folder = join(site.vault.path, 'vm1');
    const where = ['--vault', site.vault.path, '--qmp', vm.qmpSocket, '--qemu-bin', qemuBin(qemu)];
    for (const { what, step, path, published } of cases) {
      await change(3);
      const guest = await GuestWriter.start(vm, 'vda');
      const backup = ['backup', 'vm1', ...where, '--point', 'new'];
      const engine = cli(site, backup, { QMPVAULT_STOP_AT: `${step}:stop` });
      t.teardown(() => engine.kill('SIGKILL'));
      const [said] = await Promise.race([once(engine.stderr, 'data'), engine.then((end) => [end])]);
      t.match(`${said}`, `step ${step}`);
      const failing = await failCalls(t, {
        pid: engine.pid ?? 0,
        path: join(folder, path),
        calls: ['fsync', 'fdatasync'],
        error: 'EIO',
      });
      engine.kill('SIGCONT');
      const { exitCode, stdout } = await engine;
      t.ok(failing.fired > 0, `${what}: fsync failed`);
      await expectUnharmed(t, guest);
      t.match(JSON.parse(stdout), { error: { code: 'sync-failed' } });
      t.equal(exitCode, 5);
      t.equal(readdirSync(folder).includes('new'), published, 'a point only after the rename');
      await expectClean(t, site, vm, { bitmaps: published ? 2 : 1 });
      await change(4);
      const next = await backUpWithTruth(site, vm);
      t.equal(next.how, 'tracked');
      t.equal(next.parent === 'new', published);
      for (const point of [first, next]) await expectTruth(t, site, vm, point);
      await expectClean(t, site, vm, { bitmaps: 1 });
    }
  });
}
