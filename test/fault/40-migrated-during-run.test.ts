/** Row 40: the VM migrates during a run. */

import t from 'tap';
import type { Step } from '../../src/base/steps.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectTruth } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a VM that migrates during a run: published only if it stays`, async (t) => {
    const { vm, site, first } = await backedUpVm(t, qemu);
    let migration = '';
    const steps = async (step: Step) => {
      if (step !== 'copying') return;
      const ended = vm.qmp.listen(({ name }) => name === 'MIGRATION');
      const capabilities = [{ capability: 'events', state: true }];
      await vm.qmp.execute('migrate-set-capabilities', { capabilities });
      await vm.qmp.execute('migrate', { uri: 'exec:cat >/dev/null' });
      while (migration !== 'completed' && migration !== 'failed') {
        migration = String((await ended.next({ timeoutMs: 20_000 })).data['status']);
      }
      ended.close();
    };
    const run = site.backUp(vm, { steps });
    // Our nodes may keep QEMU from handing the disks over: then the migration fails, and the guest goes on here.
    if (await run.then(() => true).catch(() => false)) t.equal(migration, 'failed');
    else await t.rejects(run, { code: /vm-state|run-overtaken|qmp-command/ });
    if (migration === 'completed') {
      const { points } = await site.vault.vm('vm1').points();
      t.strictSame(
        points.map(({ id }) => id),
        [first.id],
      );
    } else {
      const next = await backUpWithTruth(site, vm);
      t.equal(next.kind, 'incremental');
      await expectTruth(t, site, vm, next);
    }
    await expectTruth(t, site, vm, first);
  });
}
