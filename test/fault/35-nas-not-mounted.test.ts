/** Row 35: the NAS is not mounted, and where it should be is an empty folder. */

import { readdirSync } from 'node:fs';
import t from 'tap';
import { codeOf, EXIT, exitCodeOf } from '../../src/base/errors.ts';
import type { Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import { initVault, openVault } from '../../src/vault/vault.ts';
import { asRoot } from '../helpers/as-root.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { backUpWithTruth, expectClean, expectTruth } from '../helpers/engine.ts';
import { expectUnharmed, GuestWriter } from '../helpers/guest-writer.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { smallTmpfs } from '../helpers/small-tmpfs.ts';

for (const qemu of qemuVersions(['7.2'])) {
  t.test(
    `QEMU ${qemu}: an empty mount point is never taken for a vault, before a run or in it`,
    async (t) => {
      const nas = smallTmpfs(t, 256 * MiB);
      const { vm, site, first, change } = await backedUpVm(t, qemu, { vault: nas });
      const memory = new VaultMemory(site.engine.stateDir);
      const elsewhere = `${site.dir}/elsewhere`;
      const away = () => {
        asRoot('mkdir', '-p', elsewhere);
        asRoot('mount', '--move', nas, elsewhere);
      };
      const back = () => asRoot('mount', '--move', elsewhere, nas);

      away();
      await t.rejects(site.backUp(vm), { code: 'vault-away' });
      await t.rejects(openVault(nas, { memory }), { code: 'vault-away' });
      await t.rejects(initVault(nas, { memory }), { code: 'vault-known' });
      t.strictSame(readdirSync(nas), [], 'nothing was made there');
      back();
      await expectClean(t, site, vm, { bitmaps: 1 });

      for (const step of ['staging', 'copied', 'publish'] as const) {
        let isAway = false;
        const steps = async (reached: Step) => {
          if (reached !== step) return;
          away();
          isAway = true;
        };
        const guest = await GuestWriter.start(vm, 'vda');
        const error = await site.backUp(vm, { steps }).catch((error: unknown) => error);
        t.ok(isAway);
        await expectUnharmed(t, guest);
        t.equal(exitCodeOf(error), EXIT.vault, `${step}: ${codeOf(error)}`);
        t.strictSame(readdirSync(nas), [], 'nothing was made there');
        back();
        await change(3);
        const next = await backUpWithTruth(site, vm);
        t.equal(next.how, 'tracked', step);
        for (const point of [first, next]) await expectTruth(t, site, vm, point);
        await expectClean(t, site, vm, { bitmaps: 1 });
      }
    },
  );
}
