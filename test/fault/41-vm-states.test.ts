/** Row 41: the VM is in a state in which nothing of ours may touch it, or no guest runs. */
import t from 'tap';
import { backedUpVm, TWO_DISKS } from '../helpers/backed-up-vm.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
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
  });
}
