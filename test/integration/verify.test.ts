import { existsSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { VmName } from '../../src/base/ids.ts';
import type { Step } from '../../src/base/steps.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import { type VerifyRequest, verify } from '../../src/upkeep/verify.ts';
import type { Work } from '../../src/upkeep/work.ts';
import { openVault } from '../../src/vault/vault.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { readOnlyView } from '../helpers/read-only-view.ts';
import { upkeepEngine } from '../helpers/upkeep.ts';

const DEEP: VerifyRequest = { vm: 'web1' as VmName, level: 'deep' };

async function verified(t: Test, made: HandMadeVault, request: VerifyRequest = DEEP) {
  const result = await verify(upkeepEngine(t), made.vault, request);
  return { ...result, listing: await made.vault.vm('web1').points() };
}

t.test(
  'a sound vault: digests that were pending are filled in, and the result stands beside each point',
  async (t) => {
    const made = await HandMadeVault.withChain(t);
    const quick = await verified(t, made, { ...DEEP, level: 'quick' });
    t.match(quick, { checked: 3, damaged: [], warnings: [] });
    t.match(quick.listing.points, [{ disks: [{ sha256: null }] }]);
    const told: Work[] = [];
    await verify(upkeepEngine(t), made.vault, DEEP, { onWork: (work) => told.push(work) });
    t.match(told.at(-1), { phase: 'checking', name: '3 points' });
    t.equal(told.at(-1)?.doneBytes, told.at(-1)?.totalBytes, 'all of it was told of');
    const deep = await verified(t, made);
    t.match(deep, { checked: 3, damaged: [], warnings: [] });
    for (const { disks } of deep.listing.points)
      for (const { sha256 } of disks) t.match(sha256, /^[0-9a-f]{64}$/);
    t.match(await made.vault.vm('web1').readVerification(deep.listing.points[0]!.id), {
      level: 'deep',
      damage: [],
    });
    t.match((await verified(t, made)).damaged, []);
  },
);

t.test('a change that a dead process left open is finished first, and is no damage', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const steps = async (step: Step) => {
    if (step === 'delete-describe') throw new Error('the end of this engine');
  };
  const request = { vm: 'web1' as VmName, point: 'p2', descendants: 'refuse' as const };
  await t.rejects(deletePoint(upkeepEngine(t, { steps }), made.vault, request));
  t.ok(await made.vault.vm('web1').readChange());
  t.match(await verified(t, made), { checked: 2, damaged: [], warnings: [] });
});

t.test('the oldest first: a few each day reach all of them', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const folder = made.vault.vm('web1');
  const seen = () =>
    Promise.all(made.points.map(async ({ id }) => (await folder.readVerification(id))?.level ?? 'never'));
  t.match(await verified(t, made, { ...DEEP, level: 'quick', oldest: 2 }), { checked: 2 });
  t.strictSame(await seen(), ['quick', 'quick', 'never']);
  await verified(t, made, { ...DEEP, oldest: 1 });
  t.strictSame(await seen(), ['deep', 'quick', 'never']);
  await verified(t, made, { ...DEEP, oldest: 2 });
  t.strictSame(await seen(), ['deep', 'deep', 'deep']);
});

t.test('a vault that can only be read is verified all the same', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const vault = await openVault(readOnlyView(t, made.vault.path), { memory: made.memory });
  const { checked, damaged, warnings } = await verify(upkeepEngine(t), vault, DEEP);
  t.match({ checked, damaged }, { checked: 3, damaged: [] });
  t.equal(warnings.length, 3);
  t.notOk(existsSync(join(made.vault.path, 'web1/p1/verified.json')));
});
