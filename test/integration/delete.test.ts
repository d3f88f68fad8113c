import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { VmName } from '../../src/base/ids.ts';
import { KiB, MiB } from '../../src/base/units.ts';
import { type QemuTools, qemuTools } from '../../src/image/tools.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import type { Descendants } from '../../src/upkeep/delete-plan.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { HandMadeVault, type PointSpec } from '../helpers/hand-made-vault.ts';
import { sha256 } from '../helpers/images.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { assertAllPoints, upkeepEngine } from '../helpers/upkeep.ts';

const web1 = 'web1' as VmName;

/** What the nth point of a chain writes: large and small layers, zeroes over data, nothing at all. */
function writesOf(nth: number): PointSpec['writes'] {
  if (nth === 0) return { vda: [[1, 0, 3 * MiB]], vdb: [[2, 0, MiB]], vdc: [] };
  const step = (nth * 192 * KiB) % (3 * MiB);
  return {
    vda: [[10 + nth, step, 128 * KiB]],
    vdb: nth % 2 === 0 ? [[0, step, MiB]] : [[20 + nth, step, MiB + 4096]],
    vdc: nth % 3 === 0 ? [] : [[30 + nth, 3 * MiB - step, 64 * KiB]],
  };
}

async function chain(t: Test, length: number): Promise<{ made: HandMadeVault; points: Manifest[] }> {
  const made = await HandMadeVault.create(t);
  const points: Manifest[] = [];
  for (let nth = 0; nth < length; nth += 1) {
    const parent = points.at(-1);
    points.push(await made.add(`p${nth}`, { ...(parent && { parent }), writes: writesOf(nth) }));
  }
  return { made, points };
}

async function remove(
  t: Test,
  made: HandMadeVault,
  point: string,
  { tools = qemuTools(), descendants = 'keep' }: { tools?: QemuTools; descendants?: Descendants } = {},
) {
  const engine = upkeepEngine(t, { tools });
  const result = await deletePoint(engine, made.vault, { vm: web1, point, descendants });
  const folder = made.vault.vm('web1');
  const { points } = await folder.points();
  await assertAllPoints(t, made, folder);
  for (const { id, disks } of points) {
    for (const { name, file, storedBytes, sha256: digest } of disks) {
      const path = join(folder.path, id, file);
      t.equal(storedBytes, statSync(path).size, `the size of ${name} of ${id}`);
      if (digest !== null) t.equal(digest, await sha256(path), `the digest of ${name} of ${id}`);
    }
  }
  for (const { id } of result.changed) {
    const changed = points.find((point) => point.id === id);
    t.ok(changed?.disks.some(({ sha256 }) => sha256 !== null));
  }
  t.equal(await folder.readChange(), null);
  t.notOk(readdirSync(folder.path).includes(point));
  t.strictSame(
    points.flatMap(({ id }) => readdirSync(join(folder.path, id)).filter((name) => name.startsWith('.'))),
    [],
  );
  return { ...result, points };
}

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  const tools = qemuTools(qemuBin(qemu));

  for (const length of [1, 2, 3]) {
    t.test(`QEMU ${qemu}: every position of a chain of ${length} can be deleted`, async (t) => {
      for (let position = 0; position < length; position += 1) {
        const { made, points } = await chain(t, length);
        const left = await remove(t, made, `p${position}`, { tools });
        t.strictSame(left.removed, [`p${position}`]);
        t.strictSame(
          left.points.map(({ id }) => id as string),
          points.map(({ id }) => id as string).filter((id) => id !== `p${position}`),
        );
        t.equal(left.points[0]?.kind ?? 'full', 'full');
      }
    });
  }

  t.test(`QEMU ${qemu}: a chain of 12 is deleted in a random order until one is left`, async (t) => {
    const { made } = await chain(t, 12);
    const order = shuffled(12, Number(process.env['QMPVAULT_TEST_SEED'] ?? Date.now()));
    t.comment(`order ${order.join(' ')}`);
    for (const nth of order.slice(1)) await remove(t, made, `p${nth}`, { tools });
    const { points } = await made.vault.vm('web1').points();
    t.match(points, [{ id: `p${order[0]}`, kind: 'full', parent: null }]);
  });

  t.test(`QEMU ${qemu}: a point with three children, in the middle and as the full`, async (t) => {
    const made = await HandMadeVault.create(t);
    const p0 = await made.add('p0', { writes: writesOf(0) });
    const p1 = await made.add('p1', { parent: p0, writes: writesOf(1) });
    const p2 = await made.add('p2', { parent: p1, writes: writesOf(2) });
    for (const nth of [3, 4, 5]) {
      const child = await made.add(`p${nth}`, { parent: p2, writes: writesOf(nth) });
      await made.add(`q${nth}`, { parent: child, writes: writesOf(nth + 3), sizeBytes: 5 * MiB });
    }
    const middle = await remove(t, made, 'p2', { tools });
    t.match(
      middle.points.filter(({ id }) => /p[345]/.test(id)),
      [{ parent: 'p1' }, { parent: 'p1' }, { parent: 'p1' }],
    );
    await remove(t, made, 'p0', { tools });
    const root = await remove(t, made, 'p1', { tools });
    t.match(
      root.points.filter(({ id }) => /p[345]/.test(id)),
      [
        { id: 'p3', kind: 'full', parent: null },
        { id: 'p4', kind: 'incremental', parent: 'p3' },
        { id: 'p5', kind: 'incremental', parent: 'p3' },
      ],
    );
    for (const id of ['q4', 'p3', 'q5', 'p5', 'q3']) await remove(t, made, id, { tools });
  });

  t.test(`QEMU ${qemu}: disks that were grown, plugged in and replaced on the way`, async (t) => {
    const made = await HandMadeVault.create(t);
    const p0 = await made.add('p0', { writes: { vda: [[1, 0, 4 * MiB]] } });
    const p1 = await made.add('p1', {
      parent: p0,
      writes: { vda: [[2, 5 * MiB, MiB]], vdb: [[3, 0, MiB]] },
      sizeBytes: 6 * MiB,
    });
    const p2 = await made.add('p2', {
      parent: p1,
      writes: { vda: [[4, 7 * MiB, MiB]], vdb: [[5, 0, 64 * KiB]] },
      sizeBytes: 8 * MiB,
    });
    await made.add('p3', { parent: p1, writes: { vdb: [[6, MiB, MiB]] } });
    await made.add('p4', { parent: p2, writes: { vda: [], vdb: [] }, sizeBytes: 9 * MiB });
    for (const id of ['p1', 'p2', 'p0', 'p3']) await remove(t, made, id, { tools });
  });
}

/** All numbers below `length`, in an order of a seed (mulberry32). */
function shuffled(length: number, seed: number): number[] {
  let state = seed | 0;
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return (mixed ^ (mixed >>> 14)) >>> 0;
  };
  return Array.from({ length }, (_, i) => ({ i, key: random() }))
    .toSorted((a, b) => a.key - b.key)
    .map(({ i }) => i);
}
