/** Rows 3 and 4: QEMU is killed between two backups, before it ever stored the bitmap, and when it had it open. */
import t, { type Test } from 'tap';
import { type BackedUpVm, backedUpVm, expectCleanNext } from '../helpers/backed-up-vm.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

const killings: [string, (t: Test, given: BackedUpVm) => Promise<void>][] = [
  [
    'before its bitmap was ever stored',
    async (t, { vm }) => {
      await vm.kill();
      await vm.restart();
      t.strictSame((await vm.leftovers()).bitmaps, [], 'it is lost');
    },
  ],
  [
    'when a stored bitmap was in use',
    async (t, { vm, change }) => {
      await vm.restart();
      await change(5);
      await vm.kill();
      await vm.restart();
      const { bitmaps } = await vm.leftovers();
      t.strictSame(
        bitmaps.map(({ inconsistent }) => inconsistent),
        [true, true],
        'it is inconsistent',
      );
    },
  ],
];

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  for (const [when, kill] of killings) {
    t.test(`QEMU ${qemu}: killed ${when}, the next backup compares`, async (t) => {
      const given = await backedUpVm(t, qemu);
      await kill(t, given);
      await expectCleanNext(t, given, 'resynced');
    });
  }
}
