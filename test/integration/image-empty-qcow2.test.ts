import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import { errnoOf } from '../../src/base/errors.ts';
import { GiB, MiB } from '../../src/base/units.ts';
import { createEmptyQcow2 } from '../../src/image/empty-qcow2.ts';
import { readQcow2Header } from '../../src/image/qcow2-header.ts';
import { checkImage, createImage, imageInfo } from '../../src/image/qemu-img.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';

const clusterBytes = 65536;
const onNbd = `json:${JSON.stringify({ driver: 'raw', file: { driver: 'nbd', export: 'ü%,x' } })}`;
const IMAGES = [
  { what: 'without a backing file', sizeBytes: 8 * GiB },
  { what: 'of an odd size', sizeBytes: 3 * MiB + 1 },
  { what: 'of one sector', sizeBytes: 512 },
  {
    what: 'of 2 TiB on a point',
    sizeBytes: 2048 * GiB,
    backing: { link: '../no such point/a.qcow2', format: 'qcow2' },
  },
  { what: 'of 64 TiB on an export', sizeBytes: 65536 * GiB, backing: { link: onNbd, format: 'raw' } },
];

for (const version of qemuVersions(['5.2', '7.2', '11.1'])) {
  const tools = qemuTools(qemuBin(version));

  t.test(`QEMU ${version} finds our empty qcow2 sound, and the same as its own`, async (t) => {
    const dir = tempDir(t);
    for (const [i, { what, ...image }] of IMAGES.entries()) {
      const [ours, theirs] = [join(dir, `${i}.qcow2`), join(dir, `${i}-qemu.qcow2`)];
      await createEmptyQcow2(ours, { ...image, clusterBytes });
      await createImage(tools, { path: theirs, format: 'qcow2', clusterBytes, ...image });
      t.same(await checkImage(tools, { path: ours }), { leaks: 0 }, `one ${what} leaks nothing`);
      const [{ allocatedBytes, ...info }, expected] = [
        await imageInfo(tools, { path: ours, format: 'qcow2' }),
        await imageInfo(tools, { path: theirs, format: 'qcow2' }),
      ];
      t.same({ ...info, allocatedBytes: expected.allocatedBytes }, expected, `one ${what}: what QEMU tells`);
      t.same(await readQcow2Header(ours), await readQcow2Header(theirs), `one ${what}: its header`);
      t.ok(allocatedBytes <= 4 * clusterBytes, `one ${what} takes little room`);
    }
  });

  t.test(`QEMU ${version} fills the tables that an empty qcow2 was made with`, async (t) => {
    const path = join(tempDir(t), 'a.qcow2');
    const sizeBytes = 2048 * GiB;
    const offsets = [0, 3 * GiB, 3 * GiB + clusterBytes, 1000 * GiB, sizeBytes - clusterBytes];
    await createEmptyQcow2(path, { sizeBytes, clusterBytes, tablesFor: offsets });
    const empty = (await stat(path)).size;
    t.same(await checkImage(tools, { path }), { leaks: 0 }, 'they belong to it');
    const writes = offsets.flatMap((offset) => ['-c', `write -q -P 7 ${offset} ${clusterBytes}`]);
    await execa(tools.qemuIo, ['-f', 'qcow2', ...writes, path]);
    t.same(await checkImage(tools, { path }), { leaks: 0 });
    t.equal((await stat(path)).size, empty + offsets.length * clusterBytes, 'no table was made anew');
    const reads = offsets.flatMap((offset) => ['-c', `read -q -P 7 ${offset} ${clusterBytes}`]);
    const { stdout } = await execa(tools.qemuIo, ['-r', '-f', 'qcow2', ...reads, path]);
    t.equal(stdout, '', 'what was written is read');
  });
}

t.test('a file that is there is not overwritten, a link that is too long is refused', async (t) => {
  const path = join(tempDir(t), 'a.qcow2');
  await createEmptyQcow2(path, { sizeBytes: MiB, clusterBytes });
  const { ino } = await stat(path);
  const again = await createEmptyQcow2(path, { sizeBytes: GiB, clusterBytes }).catch((error) => error);
  t.equal(errnoOf(again), 'EEXIST');
  t.equal((await stat(path)).ino, ino);
  const backing = { link: 'x'.repeat(1024), format: 'raw' };
  await t.rejects(createEmptyQcow2(`${path}2`, { sizeBytes: MiB, clusterBytes, backing }), {
    code: 'image-invalid',
  });
});
