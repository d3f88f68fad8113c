import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { DiskName } from '../../../src/base/ids.ts';
import { type Hold, heldPoints, isOfThisHost } from '../../../src/vault/holds.ts';
import { leaseOf, manifestOf, point, publishPoint, tempVault } from '../../helpers/vault-files.ts';

const disk = (name: string) => ({ name: name as DiskName, path: `/images/${name}.qcow2` });

function holdOn(id: string): Hold {
  const since = '2026-11-20T08:41:12.123Z';
  const disks = [disk('vda')];
  return {
    format: 1,
    id: '5f3a0c11',
    point: point(id),
    what: 'a test',
    host: 'h',
    machineId: null,
    disks,
    since,
  };
}

t.test('a hold keeps its point and all that it stands on, and nothing else', async (t) => {
  const points = [
    manifestOf('a'),
    manifestOf('b', { parent: point('a') }),
    manifestOf('c', { parent: point('b') }),
    manifestOf('d', { parent: point('a') }),
    manifestOf('e'),
  ];
  const held = (...ids: string[]) => [...heldPoints(points, ids.map(holdOn)).keys()].toSorted();
  t.strictSame(held('b'), ['a', 'b']);
  t.strictSame(held('c', 'd'), ['a', 'b', 'c', 'd']);
  t.strictSame(held('gone'), [], 'one of a point that is gone keeps none');
  const broken = points.filter(({ id }) => id !== 'a');
  t.strictSame(
    [...heldPoints(broken, [holdOn('b')]).keys()].toSorted(),
    ['b', 'c', 'd', 'e'],
    'what a broken chain needs nobody knows',
  );
});

t.test(
  'a hold lasts until its last disk is released, and one that cannot be read keeps everything',
  async (t) => {
    const { vm } = await tempVault(t);
    const lease = await leaseOf(t, vm);
    await publishPoint(vm, lease, 'p1');
    t.strictSame(await vm.holds(), []);
    const hold = await vm.addHold({ point: point('p1'), what: 'a test', disks: [disk('vda'), disk('vdb')] });
    t.ok(isOfThisHost(hold));
    t.notOk(isOfThisHost({ ...hold, host: 'another' }));
    t.strictSame(await vm.holds(), [hold]);
    t.match(await vm.points(), { points: [{ id: 'p1' }], broken: [] }, 'it is no point');
    await t.rejects(vm.refuseHeld([point('p1')]), { code: 'point-held' });
    await vm.releaseHold(hold, ['vda' as DiskName]);
    t.match(await vm.holds(), [{ disks: [{ name: 'vdb' }] }]);
    await vm.releaseHold(hold);
    await vm.releaseHold(hold);
    await vm.refuseHeld([point('p1')]);

    mkdirSync(join(vm.path, 'holds'), { recursive: true });
    writeFileSync(join(vm.path, 'holds', 'x.json'), '{');
    await t.rejects(vm.refuseHeld([point('p1')]), { code: 'manifest-invalid' });
  },
);
