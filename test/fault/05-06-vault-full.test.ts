/** Rows 5 and 6: the NAS fills up in the middle of an incremental, of a full, and of a merge. */

import { rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { VmName } from '../../src/base/ids.ts';
import type { Step } from '../../src/base/steps.ts';
import { KiB, MiB } from '../../src/base/units.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { expectUnharmed, GuestWriter } from '../helpers/guest-writer.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { growTmpfs, smallTmpfs } from '../helpers/small-tmpfs.ts';
import { assertAllPoints, copyVault, upkeepEngine } from '../helpers/upkeep.ts';
import { testVm } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a vault that fills up ends the run and nothing else`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'vda', sizeBytes: 64 * MiB },
        { name: 'vdb', sizeBytes: 64 * MiB, attach: 'virtio-scsi' },
      ],
    });
    const nas = smallTmpfs(t, 24 * MiB);
    const site = await testSite(t, { bin: qemuBin(qemu), vault: nas });
    const fill = async (pattern: number, length: number) => {
      for (const { name } of vm.disks) await vm.write(name, pattern, 16 * MiB, length);
    };

    await fill(1, 2 * MiB);
    const first = await backUpWithTruth(site, vm);
    await fill(2, 40 * MiB);
    for (const full of [false, true]) {
      const writer = await GuestWriter.start(vm, 'vda');
      await t.rejects(site.backUp(vm, { full }), { code: 'vault-full' });
      await expectUnharmed(t, writer);
      await expectClean(t, site, vm, { bitmaps: 1 });
    }

    await fill(3, MiB);
    for (const { name } of vm.disks) await vm.discard(name, 18 * MiB, 38 * MiB);
    growTmpfs(nas, 200 * MiB);
    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'tracked', 'the bitmap of the last good point still tells the changes');
    await expectTruth(t, site, vm, first);
    await expectTruth(t, site, vm, second);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}

const web1 = 'web1' as VmName;

/** Deleting p2 pulls its vda up and commits vdb of p3 into its own. */
async function onSmallNas(t: Test) {
  const made = await HandMadeVault.create(t);
  const p1 = await made.add('p1', { writes: { vda: [[1, 0, MiB]], vdb: [[2, 0, MiB]] } });
  const p2 = await made.add('p2', {
    parent: p1,
    writes: { vda: [[3, MiB, 768 * KiB]], vdb: [[4, MiB, 2 * MiB]] },
  });
  const p3 = await made.add('p3', {
    parent: p2,
    writes: { vda: [[5, 3 * MiB, MiB]], vdb: [[6, 3 * MiB, 768 * KiB]] },
  });
  await made.add('p4', { parent: p3, writes: { vda: [[7, 0, MiB]], vdb: [[8, 0, MiB]] } });
  const copy = await copyVault(t, made, { dir: smallTmpfs(t, 24 * MiB) });
  const filler = join(copy.dir, 'filler');
  return {
    made,
    ...copy,
    /** A lease and a journal still find room. */
    fill: () => {
      const taken = Buffer.alloc(64 * KiB);
      t.throws(
        () => {
          for (;;) writeFileSync(filler, taken, { flag: 'a' });
        },
        { code: 'ENOSPC' },
      );
      truncateSync(filler, statSync(filler).size - taken.length);
    },
    free: () => rmSync(filler),
  };
}

for (const step of ['delete-pull', 'delete-commit']) {
  t.test(`full from ${step} on: no point is lost, and with room again it is finished`, async (t) => {
    const { made, vault, fill, free } = await onSmallNas(t);
    const folder = vault.vm('web1');
    let filled = 0;
    const steps = async (reached: Step) => {
      if (reached !== step || filled > 0) return;
      filled += 1;
      fill();
    };
    const request = { vm: web1, point: 'p2', descendants: 'refuse' as const };
    await t.rejects(deletePoint(upkeepEngine(t, { steps }), vault, request), { code: 'vault-full' });
    t.equal(filled, 1);
    const isUndone = (await folder.readChange()) === null;
    t.equal(isUndone, step === 'delete-pull');
    t.equal((await folder.points()).points.length, isUndone ? 4 : 3);
    await assertAllPoints(t, made, folder);
    free();
    await using _ = await folder.acquireLease({ what: 'the next command' });
    t.equal(await folder.readChange(), null);
    await assertAllPoints(t, made, folder);
  });
}

t.test(
  'a point that none needs can be deleted although a change lacks room, and that may be what it lacked',
  async (t) => {
    const { made, vault, fill } = await onSmallNas(t);
    const folder = vault.vm('web1');
    let filled = false;
    const steps = async (reached: Step) => {
      if (reached !== 'delete-commit' || filled) return;
      filled = true;
      fill();
    };
    const engine = upkeepEngine(t, { steps });
    await t.rejects(deletePoint(engine, vault, { vm: web1, point: 'p2', descendants: 'refuse' }), {
      code: 'vault-full',
    });
    t.ok(await folder.readChange());
    await t.rejects(deletePoint(engine, vault, { vm: web1, point: 'p3', descendants: 'refuse' }), {
      code: 'vault-full',
    });
    await deletePoint(engine, vault, { vm: web1, point: 'p4', descendants: 'refuse' });
    t.equal(await folder.readChange(), null);
    const { points } = await folder.points();
    t.strictSame(
      points.map(({ id }) => id as string),
      ['p1', 'p3'],
    );
    await assertAllPoints(t, made, folder);
  },
);

t.test('without room for the merge nothing is begun', async (t) => {
  const { made, vault, fill } = await onSmallNas(t);
  fill();
  const request = { vm: web1, point: 'p2', descendants: 'refuse' as const };
  await t.rejects(deletePoint(upkeepEngine(t), vault, request), { code: 'vault-full' });
  await assertAllPoints(t, made, vault.vm('web1'));
});
