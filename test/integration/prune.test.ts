import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { VmName } from '../../src/base/ids.ts';
import { KiB, MiB } from '../../src/base/units.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import { protectPoint } from '../../src/upkeep/protect.ts';
import { type PruneRequest, prune } from '../../src/upkeep/prune.ts';
import type { Work } from '../../src/upkeep/work.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { assertAllPoints, upkeepEngine } from '../helpers/upkeep.ts';

const web1 = 'web1' as VmName;
const REQUEST: PruneRequest = { vm: web1, keep: null, timeZone: 'UTC' };

/** A point each day at noon from 2026-11-01 on, in chains of the given length. */
async function daily(t: Parameters<typeof HandMadeVault.create>[0], count: number, length: number) {
  const made = await HandMadeVault.create(t);
  let parent: Manifest | undefined;
  for (let nth = 0; nth < count; nth += 1) {
    const isFull = nth % length === 0;
    const createdAt = new Date(Date.UTC(2026, 10, 1 + nth, 12)).toISOString();
    const writes = isFull
      ? [[1 + nth, 0, 2 * MiB] as const]
      : [[1 + nth, nth * 128 * KiB, 256 * KiB] as const];
    parent = await made.add(`p${nth}`, {
      ...(!isFull && parent && { parent }),
      createdAt,
      writes: { vda: writes },
    });
  }
  return made;
}

t.test(
  'a whole chain goes without merging, the rest is merged; dry-run tells the same and does nothing',
  async (t) => {
    const made = await daily(t, 8, 3);
    const folder = made.vault.vm('web1');
    const engine = upkeepEngine(t);
    const request = { ...REQUEST, keep: { daily: 3, weekly: 1 } };
    const told = await prune(engine, made.vault, { ...request, dryRun: true });
    t.strictSame(told.removed, ['p2', 'p1', 'p0', 'p3', 'p4']);
    t.ok(told.freedBytes > 4 * MiB && told.mergedBytes > 0);
    t.equal((await folder.points()).points.length, 8);
    const before = statSync(made.file('p3', 'vda')).size;
    const work: Work[] = [];
    const done = await prune(engine, made.vault, request, { onWork: (now) => work.push(now) });
    t.strictSame(done, told);
    expectToTheEnd(t, work, ['merging', 'digesting']);
    const { points } = await folder.points();
    t.match(points, [
      { id: 'p5', kind: 'full', disks: [{ sha256: /./ }] },
      { id: 'p6', kind: 'full' },
      { id: 'p7', parent: 'p6' },
    ]);
    t.ok(statSync(made.file('p5', 'vda')).size < before + MiB);
    await assertAllPoints(t, made, folder);
    t.strictSame((await prune(engine, made.vault, request)).removed, []);
  },
);

/** What was told of each thing grows, and ends with all of it. */
function expectToTheEnd(t: Test, told: readonly Work[], phases: readonly Work['phase'][]): void {
  t.strictSame([...new Set(told.map(({ phase }) => phase))], phases);
  for (const [what, works] of Map.groupBy(told, ({ phase, name }) => `${phase} ${name}`)) {
    const done = works.map(({ doneBytes }) => doneBytes);
    t.strictSame(
      done,
      done.toSorted((a, b) => a - b),
      what,
    );
    t.ok((done.at(-1) ?? 0) > 0 && done.at(-1) === works.at(-1)?.totalBytes, `all of ${what}`);
  }
}

t.test('forever incremental: the chain never has more points than it may', async (t) => {
  const made = await daily(t, 5, 100);
  const folder = made.vault.vm('web1');
  const engine = upkeepEngine(t);
  const { removed } = await prune(engine, made.vault, { ...REQUEST, maxChain: 3 });
  t.strictSame(removed, ['p0', 'p1']);
  const { points } = await folder.points();
  t.match(points, [
    { id: 'p2', parent: null },
    { id: 'p3', parent: 'p2' },
    { id: 'p4', parent: 'p3' },
  ]);
  await assertAllPoints(t, made, folder);
});

t.test('a protected point is neither pruned nor deleted', async (t) => {
  const made = await daily(t, 3, 3);
  const folder = made.vault.vm('web1');
  const engine = upkeepEngine(t);
  await protectPoint(made.vault, { vm: web1, point: 'p1', protect: true });
  const { kept } = await prune(engine, made.vault, { ...REQUEST, keep: { last: 1 } });
  t.strictSame(kept, [
    { id: 'p2', reasons: ['last'] },
    { id: 'p1', reasons: ['protected'] },
  ]);
  const request = { vm: web1, point: 'p1', descendants: 'delete' as const };
  await t.rejects(deletePoint(engine, made.vault, request), { code: 'points-would-be-lost' });
  await assertAllPoints(t, made, folder);
  await protectPoint(made.vault, { vm: web1, point: 'p1', protect: false });
  await deletePoint(engine, made.vault, { vm: web1, point: 'p1', descendants: 'keep' });
  await assertAllPoints(t, made, folder);
});

t.test('a manifest that cannot be read never means that nothing is needed', async (t) => {
  const made = await daily(t, 3, 3);
  const folder = made.vault.vm('web1');
  writeFileSync(join(folder.path, 'p2', 'manifest.json'), '{');
  const engine = upkeepEngine(t);
  await t.rejects(prune(engine, made.vault, { ...REQUEST, keep: { last: 1 } }), { code: 'manifest-invalid' });
  const request = { vm: web1, point: 'p1', descendants: 'keep' as const };
  await t.rejects(deletePoint(engine, made.vault, request), { code: 'points-would-be-lost' });
  t.equal((await folder.points()).points.length, 2);
  await deletePoint(engine, made.vault, { ...request, point: 'p2', descendants: 'refuse' });
  await deletePoint(engine, made.vault, request);
  await assertAllPoints(t, made, folder);
});
