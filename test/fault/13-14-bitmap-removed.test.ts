/** Rows 13 and 14: a bitmap is removed by hand, and added again empty under its name. */
import t from 'tap';
import { backedUpVm, expectCleanNext } from '../helpers/backed-up-vm.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  for (const again of [false, true]) {
    t.test(
      `QEMU ${qemu}: a bitmap removed${again ? ', and added again empty,' : ''} is compared`,
      async (t) => {
        const given = await backedUpVm(t, qemu);
        const { vm, bitmap } = given;
        const ref = bitmap('vda');
        await vm.qmp.execute('block-dirty-bitmap-remove', ref);
        if (again)
          await vm.qmp.execute('block-dirty-bitmap-add', { ...ref, persistent: true, granularity: 65536 });
        await expectCleanNext(t, given, 'resynced');
      },
    );
  }
}
