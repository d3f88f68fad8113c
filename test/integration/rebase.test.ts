/** A point that is made to stand on an older one; every other point stays what it was. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { PointId, VmName } from '../../src/base/ids.ts';
import { KiB, MiB } from '../../src/base/units.ts';
import { readQcow2Header } from '../../src/image/qcow2-header.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import { rebasePoint } from '../../src/upkeep/rebase.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { assertAllPoints, upkeepEngine } from '../helpers/upkeep.ts';

const vm = 'web1' as VmName;
const id = (text: string) => text as PointId;

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a point is rebased over one and over two others, which then can go`, async (t) => {
    const made = await HandMadeVault.create(t);
    const engine = upkeepEngine(t, { tools: qemuTools(qemuBin(qemu)) });
    const folder = made.vault.vm(vm);
    const points: Manifest[] = [];
    for (let nth = 0; nth < 5; nth += 1) {
      const parent = points.at(-1);
      const writes = { vda: [[1 + nth, nth * 192 * KiB, 512 * KiB]], vdb: [[31 + nth, MiB, 64 * KiB]] };
      points.push(await made.add(`p${nth}`, { ...(parent && { parent }), writes: writes as never }));
    }
    const rebase = (point: string, onto: string) =>
      rebasePoint(engine, made.vault, { vm, point: id(point), onto: id(onto) });
    const linkOf = async (point: string) =>
      (await readQcow2Header(join(folder.path, point, 'vda.qcow2'))).backingLink;

    t.match(await rebase('p3', 'p1'), [{ id: 'p3', parent: 'p1', kind: 'incremental' }]);
    t.equal(await linkOf('p3'), '../p1/vda.qcow2');
    t.strictSame(await rebase('p3', 'p1'), [], 'asked again it does nothing');
    await assertAllPoints(t, made, folder);
    t.match(await rebase('p4', 'p0'), [{ id: 'p4', parent: 'p0' }]);
    await assertAllPoints(t, made, folder);
    await t.rejects(rebase('p1', 'p3'), { code: 'usage' }, 'a point does not stand on what stands on it');
    await t.rejects(rebase('p1', 'p9'), { code: 'point-unknown' });

    for (const point of ['p2', 'p3', 'p1']) {
      await deletePoint(engine, made.vault, { vm, point, exact: true, descendants: 'refuse' });
    }
    const left = (await folder.points()).points;
    t.strictSame(
      left.map((point) => [point.id, point.parent] as string[]),
      [
        ['p0', null],
        ['p4', 'p0'],
      ] as unknown as string[][],
    );
    await assertAllPoints(t, made, folder);
    t.notOk(readdirSync(join(folder.path, 'p4')).some((name) => name.startsWith('.')));
    const begins = { vm, point: 'p', exact: true, descendants: 'keep' } as const;
    await t.rejects(deletePoint(engine, made.vault, begins), { code: 'point-unknown' }, 'only an id will do');
  });
}
