/** Row 43: the owner of a lease hangs, its term passes, somebody else takes over, and the owner revives. */

import { once } from 'node:events';
import { utimesSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { codeOf } from '../../src/base/errors.ts';
import { vmName } from '../../src/base/ids.ts';
import type { Step } from '../../src/base/steps.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import { TERM_MS } from '../../src/vault/claim.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { cli } from '../helpers/cli.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { assertAllPoints, copyVault, upkeepEngine } from '../helpers/upkeep.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a backup that hung just before publishing publishes no more`, async (t) => {
    const qmp = join(tempDir(t), 'second.sock');
    const { vm, site, first, change } = await backedUpVm(t, qemu, {
      extraArgs: ['-qmp', `unix:${qmp},server=on,wait=off`],
    });
    const where = ['--vault', site.vault.path, '--qmp', vm.qmpSocket, '--qemu-bin', qemuBin(qemu)];
    const hung = cli(site, ['backup', 'vm1', ...where], { QMPVAULT_STOP_AT: 'publish:stop' });
    t.teardown(() => hung.kill('SIGKILL'));
    const [said] = await Promise.race([once(hung.stderr, 'data'), hung.then((end) => [end])]);
    t.match(`${said}`, 'step publish');

    await change(3);
    // Another host: it shares the vault and nothing else.
    const elsewhere = await testSite(t, { bin: qemuBin(qemu), vault: site.vault.path });
    await t.rejects(elsewhere.backUp(vm, { qmp }), { code: 'vault-locked' }, 'not before its term');
    const lease = join(site.vault.path, 'vm1', 'lease.json');
    const at = new Date(Date.now() - TERM_MS - 1_000);
    utimesSync(lease, at, at);
    const second = await backUpWithTruth(elsewhere, vm, { qmp });
    t.match(second, { how: 'tracked', parent: first.id });

    hung.kill('SIGCONT');
    const { exitCode, stdout } = await hung;
    t.equal(exitCode, 6, stdout);
    const listed = (await site.vault.vm('vm1').points()).points;
    t.strictSame(
      listed.map(({ id }) => id),
      [first.id, second.id],
    );
    await change(4);
    const third = await backUpWithTruth(site, vm);
    t.match(third, { how: 'tracked', parent: second.id });
    await expectTruth(t, site, vm, first);
    await expectTruth(t, elsewhere, vm, second);
    await expectTruth(t, site, vm, third);
    await expectClean(t, site, vm, { bitmaps: 1 });
    await expectClean(t, elsewhere, vm, { bitmaps: 1 });
  });
}

t.test('a merge that hung at any step, and was finished by another, changes nothing more', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const p2 = { vm: vmName('web1'), point: 'p2', descendants: 'refuse' } as const;
  const walked: string[] = [];
  for (let nth = 0; ; nth += 1) {
    const { vault } = await copyVault(t, made);
    const folder = vault.vm('web1');
    let reached = -1;
    const steps = async (step: Step) => {
      reached += 1;
      if (reached !== nth) return;
      walked.push(step);
      // It hangs here, and the operator says that it will not come back.
      await deletePoint(upkeepEngine(t), vault, { ...p2, point: 'p3', breakLease: true });
    };
    const hung = await deletePoint(upkeepEngine(t, { steps }), vault, p2).catch(codeOf);
    if (reached < nth) break;
    t.equal(hung, 'lease-lost', `hung at ${walked.at(-1)}`);
    t.equal(await folder.readChange(), null);
    t.notOk((await folder.points()).points.some(({ id }) => id === 'p3'));
    await assertAllPoints(t, made, folder);
  }
  t.ok(walked.length > 5, walked.join(' '));
});
