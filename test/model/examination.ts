/** What must be true after every operation: every point is what it was, the guest too, and nothing of ours is left. */
import { strict as assert } from 'node:assert';
import { lstatSync } from 'node:fs';
import { readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { ancestors } from '../../src/vault/chain.ts';
import type { Manifest, ManifestDisk } from '../../src/vault/manifest.ts';
import { processesIn } from '../helpers/temp-dir.ts';
import { meetFinished } from './backing-up.ts';
import { type ModelVault, VM, type World } from './world.ts';

/** Files of chains that were found right, and were not touched since: by their inodes, times and sizes. */
const seen = new WeakMap<ModelVault, Map<string, string>>();

/** @param options.thorough reads all points again, and the disks of the guest too @throws the first thing that is wrong */
export async function examine(world: World, { thorough = false } = {}): Promise<void> {
  for (const vault of world.vaults) await examinePoints(world, vault, thorough);
  if (thorough) await examineGuest(world);
  if (world.isUnsettled) return;
  await examineVm(world);
  await examineHost(world);
}

async function examinePoints(world: World, vault: ModelVault, thorough: boolean): Promise<void> {
  await meetFinished(world, vault);
  const listing = await world.folder(vault).points();
  assert.deepEqual(listing.broken, [], 'every manifest can be read');
  const listed = listing.points.map(({ id }) => id);
  for (const id of vault.doubtful) if (!listed.includes(id)) vault.points.delete(id);
  assert.deepEqual(listed, [...vault.points.keys()], 'the points are those that were made and not deleted');
  const before = seen.get(vault) ?? new Map<string, string>();
  const now = new Map<string, string>();
  seen.set(vault, now);
  for (const point of listing.points) {
    for (const disk of point.disks) {
      // In the middle of a change the manifests do not say what the files stand on.
      const identity = vault.isUnsettled ? null : identityOf(world, vault, listing.points, point, disk);
      const key = `${point.id} ${disk.name}`;
      const isKnown = !thorough && identity !== null && before.get(key) === identity;
      if (!isKnown) await comparePoint(world, vault, point, disk);
      if (identity !== null) now.set(key, identity);
    }
  }
}

async function comparePoint(
  world: World,
  vault: ModelVault,
  point: Manifest,
  disk: ManifestDisk,
): Promise<void> {
  const file = join(world.folder(vault).path, point.id, disk.file);
  const found = await world.throughFile((raw) =>
    execa(join(world.vm.bin, 'qemu-img'), ['convert', '-U', '-f', 'qcow2', '-O', 'raw', file, raw]),
  );
  world.tally.comparisons += 1;
  const difference = world.truthOf(vault, point.id, disk.name).differenceTo(found);
  assert.equal(difference, null, `${disk.name} of ${point.id} (${point.how}) is what it was`);
}

function identityOf(
  world: World,
  vault: ModelVault,
  points: readonly Manifest[],
  point: Manifest,
  { name }: ManifestDisk,
): string {
  const line = [point, ...ancestors(points, point.id)];
  const files = line.flatMap(({ id, disks }) =>
    disks.flatMap((disk) => (disk.name === name ? [join(world.folder(vault).path, id, disk.file)] : [])),
  );
  const stats = files.map((file) => lstatSync(file, { bigint: true }));
  return stats.map(({ ino, mtimeNs, size }) => `${ino} ${mtimeNs} ${size}`).join(' ');
}

/** The guest's own data is what it wrote. */
export async function examineGuest(world: World): Promise<void> {
  for (const { spec, content } of world.attached) {
    const difference = content.differenceTo(await world.read(spec.name));
    assert.equal(difference, null, `the guest finds on ${spec.name} what it wrote`);
  }
}

async function examineVm({ vm, vaults, attached }: World): Promise<void> {
  const { nodes, jobs, exports, bitmaps } = await vm.leftovers();
  assert.deepEqual(
    { nodes, jobs, exports },
    { nodes: [], jobs: [], exports: [] },
    'nothing is left in the VM',
  );
  for (const { vault, isFresh } of vaults) {
    for (const { node } of attached) {
      const ours = bitmaps.filter(
        (bitmap) => bitmap.node === node && bitmap.name.startsWith(`qmpvault-${vault.id.slice(0, 8)}-`),
      );
      assert.ok(!isFresh || ours.length <= 1, `bitmaps of ${vault.path} on ${node}: ${JSON.stringify(ours)}`);
      assert.ok(!ours.some(({ busy }) => busy), `a bitmap on ${node} is in use`);
    }
  }
}

async function examineHost(world: World): Promise<void> {
  const { engine, lab, nas, vaults, vm } = world;
  for (const folder of [engine.runtimeDir, engine.scratchDir, join(engine.stateDir, 'runs')]) {
    assert.deepEqual(await readdir(folder).catch(() => []), [], `nothing is left in ${folder}`);
  }
  const roots = vaults.map(({ vault }) => vault.path);
  assert.deepEqual((await readdir(nas)).map((name) => join(nas, name)).toSorted(), roots.toSorted());
  for (const vault of vaults) await examineVault(world, vault);
  const alive = processesIn(lab).filter(({ pid }) => pid !== vm.pid);
  assert.deepEqual(alive, [], 'no process of ours is left');
  const open = await Promise.all(
    (await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')),
  );
  assert.deepEqual(
    open.filter((path) => path.startsWith(nas) || path.startsWith(engine.runtimeDir)),
    [],
    'no file of the vault or of a run is open',
  );
}

async function examineVault(world: World, vault: ModelVault): Promise<void> {
  const folder = world.folder(vault);
  const names = await readdir(folder.path).catch(() => null);
  if (names === null) return;
  const beside = ['vm.json', 'readers', '.retired.json'];
  assert.deepEqual(
    names.filter((name) => !beside.includes(name)).toSorted(),
    [...vault.points.keys()].toSorted(),
    `nothing but points is in ${folder.path}`,
  );
  assert.deepEqual(await readdir(join(folder.path, 'readers')).catch(() => []), [], `nobody reads ${VM}`);
  for (const { id, disks } of (await folder.points()).points) {
    const files = (await readdir(join(folder.path, id))).filter((name) => name !== 'verified.json');
    assert.deepEqual(files.toSorted(), ['manifest.json', ...disks.map(({ file }) => file)].toSorted());
    for (const { file, storedBytes } of disks) {
      assert.equal(lstatSync(join(folder.path, id, file)).size, storedBytes, `the size of ${file} of ${id}`);
    }
  }
}
