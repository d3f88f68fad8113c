import { existsSync, readFileSync, statSync, truncateSync } from 'node:fs';
import { chmod, mkdir, rename, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Clock } from '../../../src/base/clock.ts';
import { silent } from '../../../src/base/log.ts';
import { ListMemo } from '../../../src/operations/list-memo.ts';
import { pointJson } from '../../../src/operations/point-json.ts';
import { readManifest } from '../../../src/vault/points.ts';
import { tempDir } from '../../helpers/temp-dir.ts';
import { leaseOf, publishPoint, tempVault } from '../../helpers/vault-files.ts';

const HOUR_MS = 3_600_000;
const inTwoHours: Clock = () => new Date(Date.now() + 2 * HOUR_MS);
const ALL = ['p1', 'p2', 'p3'];

/** A vault with three points, and a list of it that tells which manifests it had to read. */
async function site(t: Test) {
  const { vault, vm } = await tempVault(t);
  const lease = await leaseOf(t, vm);
  const p1 = await publishPoint(vm, lease, 'p1');
  await publishPoint(vm, lease, 'p2', { parent: p1.id });
  await publishPoint(vm, lease, 'p3', { sealed: true });
  const stateDir = tempDir(t);
  const list = async ({ clock = inTwoHours, version = '1.0.0', folder = stateDir } = {}) => {
    const read: string[] = [];
    const readPoint = async (path: string, id: string) => {
      read.push(id);
      return pointJson(await readManifest(path, id));
    };
    const engine = { stateDir: folder, version, log: silent };
    const memo = new ListMemo(vault, readPoint, { engine, clock });
    const listing = await vm.pointsBy(memo.read);
    await memo.save();
    const truth = await vm.points();
    t.same(listing.points, truth.points.map(pointJson), 'what the manifests say');
    t.same(
      listing.broken.map(({ id, error }) => [id, error.code]),
      truth.broken.map(({ id, error }) => [id, error.code]),
      'what cannot be read',
    );
    return read.toSorted();
  };
  const file = join(stateDir, 'lists', vault.id);
  const entries = () => JSON.parse(readFileSync(file, 'utf8').replace(/^.*\n/, '')).length;
  return { vm, lease, list, file, entries, manifest: (id: string) => join(vm.path, id, 'manifest.json') };
}

t.test('what has not changed is not read again, nor written', async (t) => {
  const { list, file } = await site(t);
  t.same(await list(), ALL);
  t.equal(statSync(join(file, '..')).mode & 0o777, 0o700);
  const { ino, mode } = statSync(file);
  t.equal(mode & 0o777, 0o600);
  t.same(await list(), []);
  t.equal(statSync(file).ino, ino);
});

t.test('a manifest that was replaced, written to in place or shut is read', async (t) => {
  const { vm, lease, list, manifest } = await site(t);
  // Else only what the filesystem counts in would tell the next change from the last one.
  const age = () => utimes(manifest('p2'), 0, 0);
  await age();
  await list();
  const p2 = (await vm.points()).points.find(({ id }) => id === 'p2');
  if (p2 === undefined) throw new Error('there is no p2');
  await vm.replaceManifest({ ...p2, protected: true }, lease);
  t.same(await list(), ['p2']);
  await age();
  await list();
  const text = readFileSync(manifest('p2'), 'utf8');
  await writeFile(manifest('p2'), text.replace('"crash"', '"c5ash"'));
  t.same(await list(), ['p2'], 'damaged, of the same size');
  await writeFile(manifest('p2'), text);
  t.same(await list(), ['p2'], 'and what was broken was not remembered');
  await age();
  await list();
  await chmod(manifest('p2'), 0o400);
  t.same(await list(), ['p2']);
});

t.test('what is gone, a link or another point is shown as it is, and forgotten', async (t) => {
  const { vm, list, entries, manifest } = await site(t);
  await list();
  t.equal(entries(), 3);
  await rm(manifest('p1'));
  t.same(await list(), ['p1']);
  t.equal(entries(), 2);
  await rename(join(vm.path, 'p3'), join(vm.path, 'p4'));
  await symlink('p4', join(vm.path, 'p3'));
  t.same(await list(), ['p1', 'p4']);
  t.equal(entries(), 1);
  for (const id of [...ALL, 'p4']) await rm(join(vm.path, id), { recursive: true });
  t.same(await list(), []);
  t.equal(entries(), 0);
});

t.test('what changed within the last hour, or will have, is not remembered', async (t) => {
  const { list, file, entries, manifest } = await site(t);
  t.same(await list({ clock: () => new Date() }), ALL);
  t.notOk(existsSync(file));
  const future = new Date(Date.now() + 4 * HOUR_MS);
  await utimes(manifest('p1'), future, future);
  t.same(await list(), ALL);
  t.equal(entries(), 2);
  t.same(await list(), ['p1']);
});

t.test('a memo that is damaged, cut or of another version is made anew', async (t) => {
  const { list, file } = await site(t);
  await list();
  const text = readFileSync(file, 'utf8');
  for (const bad of [
    text.replace('"full"', '"fell"'),
    text.slice(0, -3),
    text.split('\n')[0] ?? '',
    '',
    '\n[]',
  ]) {
    await writeFile(file, bad);
    t.same(await list(), ALL);
    t.same(await list(), []);
  }
  truncateSync(file, 10);
  t.same(await list({ version: '1.0.1' }), ALL);
  t.same(await list(), ALL);
});

t.test('where none can be read or written, everything is read', async (t) => {
  const { list, file } = await site(t);
  const folder = join(tempDir(t), 'file');
  await writeFile(folder, '');
  t.same(await list({ folder }), ALL);
  await mkdir(file, { recursive: true });
  t.same(await list(), ALL);
  t.same(await list(), ALL);
});

t.test('of several lists at once the last memo is there, and good', async (t) => {
  const { list, entries } = await site(t);
  await Promise.all([list(), list(), list()]);
  t.equal(entries(), 3);
  t.same(await list(), []);
});
