import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import type { DiskName, VmName } from '../../src/base/ids.ts';
import { GiB, MiB } from '../../src/base/units.ts';
import { imageInfo } from '../../src/image/qemu-img.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { restorePoint } from '../../src/restore/restore.ts';
import type { RestoreRequest, RestoreTarget } from '../../src/restore/restore-plan.ts';
import type { Change, Move } from '../../src/vault/change.ts';
import { openVault } from '../../src/vault/vault.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { contentsOf, HandMadeVault } from '../helpers/hand-made-vault.ts';
import { areSame } from '../helpers/images.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { readOnlyView } from '../helpers/read-only-view.ts';
import { tempDir } from '../helpers/temp-dir.ts';

const tools = qemuTools();
const web1 = 'web1' as VmName;

function ask(target: RestoreTarget, wishes: Partial<RestoreRequest> = {}): RestoreRequest {
  return { vm: web1, point: 'latest', format: 'qcow2', target, ...wishes };
}

function onto(targets: Record<string, string>): RestoreTarget {
  return { disks: new Map(Object.entries(targets) as [DiskName, string][]) };
}

for (const version of qemuVersions(['5.2', '7.2', '11.1'])) {
  const tools = qemuTools(qemuBin(version));

  t.test(
    `qemu-img ${version}: every point of the chain comes back byte for byte, in both formats`,
    async (t) => {
      const made = await HandMadeVault.withChain(t);
      for (const id of ['p1', 'p2', 'p3']) {
        for (const format of ['qcow2', 'raw'] as const) {
          const dir = join(made.dir, 'out', `${id}-${format}`);
          const { restored, warnings } = await restorePoint(
            tools,
            made.vault,
            ask({ dir }, { point: id, format }),
          );
          t.same(
            restored,
            ['vda', 'vdb'].map((disk) => ({
              disk,
              path: join(dir, `${disk}.${format}`),
              virtualSizeBytes: 4 * MiB,
            })),
          );
          t.same(warnings, []);
          t.same(
            readdirSync(dir).toSorted(),
            [`vda.${format}`, `vdb.${format}`],
            'and nothing else is there',
          );
          for (const { disk, path } of restored) {
            t.ok(
              (await contentsOf(t, path, format)).equals(made.truth(id, disk)),
              `${disk} at ${id} as ${format}`,
            );
            const info = await imageInfo(tools, { path, format });
            t.match(info, { virtualSizeBytes: 4 * MiB, backingLink: null });
            if (format === 'qcow2') t.equal(info.compat, '1.1');
          }
        }
      }
      t.same(readdirSync(join(made.vault.path, 'web1', 'readers')), [], 'no reader stays registered');
    },
  );
}

t.test('what the guest never wrote, or zeroed, takes no space', async (t) => {
  const made = await HandMadeVault.create(t);
  const full = await made.add('p1', { sizeBytes: GiB, writes: { vda: [[7, 0, 8 * MiB]] } });
  await made.add('p2', { parent: full, writes: { vda: [[0, MiB, 7 * MiB]] } });
  for (const format of ['qcow2', 'raw'] as const) {
    const { restored } = await restorePoint(
      tools,
      made.vault,
      ask({ dir: join(made.dir, format) }, { format }),
    );
    const { blocks } = statSync(restored[0]!.path);
    t.ok(blocks * 512 < 3 * MiB, `${format} takes ${blocks * 512} bytes`);
  }
});

t.test('a disk that grew has its size of that moment', async (t) => {
  const made = await HandMadeVault.create(t);
  const full = await made.add('p1', { sizeBytes: 2 * MiB, writes: { vda: [[7, 0, 2 * MiB]] } });
  await made.add('p2', { parent: full, sizeBytes: 5 * MiB, writes: { vda: [[8, 4 * MiB, MiB]] } });
  for (const [point, sizeBytes] of [
    ['p1', 2 * MiB],
    ['p2', 5 * MiB],
  ] as const) {
    const target = join(made.dir, point);
    await restorePoint(tools, made.vault, ask(onto({ vda: target }), { point, format: 'raw' }));
    t.equal(statSync(target).size, sizeBytes);
    t.ok(areSame(target, made.truthFile(point, 'vda')));
  }
});

t.test('single disks go to the files that are named, private to who restored them', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const target = join(made.dir, 'json:{"driver": "x"}, nbd:y');
  const { restored } = await restorePoint(
    tools,
    made.vault,
    ask(onto({ vdb: target }), { point: 'p2', format: 'raw' }),
  );
  t.same(restored, [{ disk: 'vdb', path: target, virtualSizeBytes: 4 * MiB }]);
  t.ok(areSame(target, made.truthFile('p2', 'vdb')));
  t.equal(statSync(target).mode & 0o777, 0o600);
  t.same(readdirSync(made.dir).toSorted(), ['json:{"driver": "x"}, nbd:y', 'state', 'vault']);
});

t.test('what exists is only replaced by force, and keeps its mode', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const dir = join(made.dir, 'out');
  mkdirSync(dir);
  const target = join(dir, 'vdb.qcow2');
  writeFileSync(target, 'precious');
  chmodSync(target, 0o640);
  await t.rejects(restorePoint(tools, made.vault, ask({ dir })), { code: 'target-exists' });
  t.equal(readFileSync(target, 'utf8'), 'precious');
  t.same(readdirSync(dir), ['vdb.qcow2'], 'the other disk was not begun');

  await restorePoint(tools, made.vault, ask({ dir }, { force: true }));
  t.ok((await contentsOf(t, target, 'qcow2')).equals(made.truth('p3', 'vdb')));
  t.equal(statSync(target).mode & 0o777, 0o640);
});

t.test('a link is followed to the file that it names', async (t) => {
  const made = await HandMadeVault.withChain(t);
  writeFileSync(join(made.dir, 'behind'), '');
  symlinkSync('behind', join(made.dir, 'link'));
  const request = ask(onto({ vda: join(made.dir, 'link') }), { format: 'raw' });
  await t.rejects(restorePoint(tools, made.vault, request), { code: 'target-exists' });
  await restorePoint(tools, made.vault, { ...request, force: true });
  t.ok(areSame(join(made.dir, 'behind'), made.truthFile('p3', 'vda')));
});

t.test('progress is told for every disk, up to its end', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const told: string[] = [];
  await restorePoint(tools, made.vault, ask({ dir: join(made.dir, 'out') }), {
    onProgress: ({ disks }) => {
      t.ok(disks.every(({ totalBytes }) => totalBytes === 4 * MiB));
      told.push(disks.map(({ name, fraction }) => `${name} ${fraction}`).join(', '));
    },
  });
  t.equal(told[0], 'vda 0, vdb 0');
  t.ok(told.includes('vda 1, vdb 0'));
  t.equal(told.at(-1), 'vda 1, vdb 1');
});

t.test('a vault that is mounted read-only restores', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const vault = await openVault(readOnlyView(t, made.vault.path), { memory: made.memory });
  const target = join(made.dir, 'vda.raw');
  await restorePoint(tools, vault, ask(onto({ vda: target }), { format: 'raw' }));
  t.ok(areSame(target, made.truthFile('p3', 'vda')));
});

t.test('what does not exist is named', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const dir = join(made.dir, 'out');
  const table: [Partial<RestoreRequest>, string][] = [
    [{ vm: 'web2' as VmName }, 'vm-unknown'],
    [{ point: 'p9' }, 'point-unknown'],
    [{ point: 'p' }, 'usage'],
    [{ target: onto({ vdz: join(dir, 'x') }) }, 'disk-unknown'],
  ];
  for (const [wish, code] of table) {
    await t.rejects(restorePoint(tools, made.vault, ask({ dir }, wish)), { code });
  }
  t.notOk(existsSync(dir));
  t.notOk(existsSync(join(made.vault.path, 'web2')), 'no folder is made for a VM that is not there');
});

t.test("'latest' passes over a point that cannot be read, and says so", async (t) => {
  const made = await HandMadeVault.withChain(t);
  writeFileSync(join(made.vault.path, 'web1', 'p3', 'manifest.json'), '{}');
  const target = join(tempDir(t), 'vda.raw');
  const { warnings } = await restorePoint(tools, made.vault, ask(onto({ vda: target }), { format: 'raw' }));
  t.ok(areSame(target, made.truthFile('p2', 'vda')));
  t.equal(warnings.length, 1);
  t.match(warnings[0], /p3/);
});

t.test('a change that a killed process left open keeps nobody from restoring', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const [, p2, p3] = made.points;
  const { path } = made.vault.vm('web1');
  const move = (disk: string): Move => ({
    point: p3!.id,
    disk: disk as DiskName,
    file: `${disk}.qcow2`,
    from: { point: p2!.id, file: `${disk}.qcow2` },
    backing: { point: made.points[0]!.id, file: `${disk}.qcow2` },
    how: 'rewrite',
  });
  const change: Change = {
    format: 1,
    what: 'delete of p2',
    stage: 'switching',
    moves: [move('vda'), move('vdb')],
    parents: [{ point: p3!.id, parent: made.points[0]!.id }],
    removes: [p2!.id],
  };
  const restoresTo = async (what: string) => {
    for (const id of ['p1', 'p3']) {
      const target = onto({ vda: join(made.dir, 'a'), vdb: join(made.dir, 'b') });
      await restorePoint(tools, made.vault, ask(target, { point: id, format: 'raw', force: true }));
      t.ok(areSame(join(made.dir, 'a'), made.truthFile(id, 'vda')), `vda of ${id} ${what}`);
      t.ok(areSame(join(made.dir, 'b'), made.truthFile(id, 'vdb')), `vdb of ${id} ${what}`);
    }
  };
  writeFileSync(join(path, 'journal.json'), JSON.stringify(change));
  await restoresTo('before a file is moved');
  const gone = restorePoint(tools, made.vault, ask({ dir: join(made.dir, 'x') }, { point: 'p2' }));
  await t.rejects(gone, { code: 'point-unknown' }, 'what goes is no point any more');
  await execa('qemu-img', [
    'rebase',
    '-f',
    'qcow2',
    '-b',
    '../p1/vda.qcow2',
    '-F',
    'qcow2',
    made.file('p3', 'vda'),
  ]);
  await restoresTo('when one of two disks is moved');
  await execa('qemu-img', [
    'rebase',
    '-f',
    'qcow2',
    '-b',
    '../p1/vdb.qcow2',
    '-F',
    'qcow2',
    made.file('p3', 'vdb'),
  ]);
  await restoresTo('when both are');
  rmSync(join(path, 'p2'), { recursive: true });
  await restoresTo('when the point has gone');
});
