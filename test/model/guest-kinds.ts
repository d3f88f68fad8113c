/** What happens to a VM and its disks while nobody backs it up. */
import { strict as assert } from 'node:assert';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import fc from 'fast-check';
import { codeOf, messageOf } from '../../src/base/errors.ts';
import { MiB } from '../../src/base/units.ts';
import { examineGuest } from './examination.ts';
import {
  CLUSTER_BYTES,
  choice,
  chosen,
  kind,
  nothing,
  type Outcome,
  rangeOn,
  write,
  writeOn,
  writes,
} from './kind.ts';
import { Tally } from './tally.ts';
import type { ModelDisk, World } from './world.ts';

const MAX_DISK_BYTES = 16 * MiB;
const MIN_DISK_BYTES = MiB;
const SECTOR_BYTES = 512;

export const guestKinds = {
  write: kind({
    weight: 8,
    parameters: fc.record({ writes: writes(4) }),
    async perform(world, { writes }) {
      await writeOn(world, writes);
      return 'done';
    },
  }),

  zero: kind({
    weight: 5,
    parameters: fc.record({ range: write, unmap: fc.boolean() }),
    async perform(world, { range: wish, unmap }) {
      const disk = chosen(world.attached, wish.disk);
      const range = disk && rangeOn(disk, wish);
      if (!disk || !range) return 'passed';
      await world.vm.zero(disk.spec.name, range.offset, range.length, { unmap });
      disk.content = disk.content.filled(0, range.offset, range.length);
      return 'done';
    },
  }),

  discard: kind({
    weight: 5,
    parameters: fc.record({ range: write }),
    async perform(world, { range: wish }) {
      const disk = chosen(world.attached, wish.disk);
      const range = disk && rangeOn(disk, wish, CLUSTER_BYTES);
      if (!disk || !range) return 'passed';
      await world.vm.discard(disk.spec.name, range.offset, range.length);
      // QEMU may keep a cluster all the same: what it does then holds.
      const before = disk.content;
      disk.content = await world.read(disk.spec.name);
      const zeroed = before.filled(0, range.offset, range.length);
      assert.ok(disk.content.isMixOf(before, zeroed), 'a discard changes nothing but what it is for');
      return 'done';
    },
  }),

  grow: kind({
    weight: 6,
    parameters: fc.record({
      disk: choice,
      sectors: fc.integer({ min: 1, max: 4096 }),
      running: fc.boolean(),
    }),
    async perform(world, { disk: choice, sectors, running }) {
      const disk = chosen(world.attached, choice);
      const sizeBytes = (disk?.content.sizeBytes ?? 0) + sectors * SECTOR_BYTES;
      if (!disk || sizeBytes > MAX_DISK_BYTES) return 'passed';
      // A dead run's filter over the disk would not hear of it; QEMU grows no nvme disk that is in use.
      if (running && !world.isUnsettled && disk.spec.attach !== 'nvme') {
        const node = disk.spec.throttle === undefined ? disk.node : `${disk.spec.name}-limited`;
        const resized = world.vm.qmp.execute('block_resize', { 'node-name': node, size: sizeBytes });
        if (!(await unlessInconsistent(resized))) return 'passed';
      } else {
        let isGrown = false;
        await whileStopped(world, async () => {
          isGrown = await unlessInconsistent(resizeImage(world, disk, sizeBytes));
        });
        if (!isGrown) return 'passed';
      }
      await meetGrown(world, disk, sizeBytes);
      return 'done';
    },
  }),

  /** An image with bitmaps cannot be made smaller: its operator takes them away. */
  shrink: kind({
    weight: 8,
    parameters: fc.record({ disk: choice, sectors: fc.integer({ min: 1, max: 4096 }) }),
    async perform(world, { disk: choice, sectors }) {
      const disk = chosen(world.attached, choice);
      const sizeBytes = (disk?.content.sizeBytes ?? 0) - sectors * SECTOR_BYTES;
      if (!disk || sizeBytes < MIN_DISK_BYTES || disk.images.length > 1 || disk.spec.withBacking)
        return 'passed';
      await whileStopped(world, async () => {
        await removeBitmaps(world, disk);
        await resizeImage(world, disk, sizeBytes);
      });
      disk.content = disk.content.resized(sizeBytes);
      return 'done';
    },
  }),

  /** In, or out again; what was out comes back as it was. */
  plug: kind({
    weight: 6,
    parameters: nothing,
    async perform(world) {
      const { vm, spare } = world;
      if (vm.disks.some(({ name }) => name === spare.name)) {
        // A dead run's filter would keep its node.
        if (world.isUnsettled) return 'passed';
        await vm.unplug(spare.name);
        return 'done';
      }
      await vm.plug(spare);
      for (const vault of world.vaults) vault.isFresh = false;
      const known = world.disks.get(spare.name);
      if (known === undefined) await world.meet(spare);
      else known.node = spare.name;
      return 'done';
    },
  }),

  snapshot: kind({
    weight: 10,
    parameters: fc.record({ disk: choice }),
    async perform(world, { disk: choice }) {
      const disk = chosen(withoutSpare(world), choice);
      if (!disk || disk.images.length > 2) return 'passed';
      return (await snapshotOf(world, disk)) ? 'done' : 'passed';
    },
  }),

  commit: kind({
    weight: 22,
    parameters: fc.record({ disk: choice }),
    async perform(world, { disk: choice }) {
      const disks = withoutSpare(world);
      const withOverlay = disks.filter(({ images }) => images.length > 1);
      const disk = chosen(withOverlay.length > 0 ? withOverlay : disks, choice);
      if (!disk || world.isUnsettled) return 'passed';
      if (disk.images.length === 1 && !(await snapshotOf(world, disk))) return 'passed';
      await commitAll(world, disk);
      return 'done';
    },
  }),

  restart: kind({
    weight: 5,
    parameters: fc.record({ save: fc.boolean() }),
    async perform(world, { save }) {
      await whileStopped(world, async () => {
        if (save) await world.save();
      });
      return 'done';
    },
  }),

  rollBack: kind({
    weight: 14,
    parameters: fc.record({ only: fc.option(choice), between: writes(3) }),
    async perform(world, { only, between }): Promise<Outcome> {
      if (!world.hasSaved) {
        await whileStopped(world, () => world.save());
        await writeOn(world, between);
      }
      const all = world.attached.map(({ spec }) => spec.name);
      const names = only === null ? all : [chosen(all, only) ?? ''];
      let done: string[] = [];
      await whileStopped(world, async () => {
        done = await world.rollBack(names);
      });
      return done.length > 0 ? 'done' : 'passed';
    },
  }),
};

/** @returns false where a run that is under way, or a dead one's jobs, keep it from being taken */
export async function snapshotOf(world: World, disk: ModelDisk): Promise<boolean> {
  const path = join(world.lab, 'vm', `${world.newName('overlay')}.qcow2`);
  const node = world.newName('overlay');
  const overlay = { 'snapshot-file': path, 'snapshot-node-name': node, format: 'qcow2' };
  try {
    await world.vm.qmp.execute('blockdev-snapshot-sync', { 'node-name': disk.node, ...overlay });
  } catch (error) {
    if (codeOf(error) !== 'qmp-command') throw error;
    Tally.count(world.tally.passed, messageOf(error));
    await rm(path, { force: true });
    return false;
  }
  world.consistsOf(disk, [...disk.images, { path, format: 'qcow2' }]);
  disk.node = node;
  return true;
}

export function withoutSpare({ attached, spare }: World): ModelDisk[] {
  return attached.filter(({ spec }) => spec.name !== spare.name);
}

async function whileStopped(world: World, act: () => Promise<unknown>): Promise<void> {
  await world.vm.quit();
  await examineGuest(world);
  await act();
  await world.startVm();
}

async function resizeImage(world: World, disk: ModelDisk, sizeBytes: number): Promise<void> {
  const { path, format } = world.imageOf(disk);
  await execa(join(world.vm.bin, 'qemu-img'), [
    'resize',
    '-q',
    '-f',
    format,
    '--shrink',
    path,
    `${sizeBytes}`,
  ]);
}

/** A qcow2 that was made smaller keeps its last cluster whole: when it grows, what was cut off there is back. */
async function meetGrown(world: World, disk: ModelDisk, sizeBytes: number): Promise<void> {
  const before = disk.content;
  disk.content = await world.read(disk.spec.name);
  const { sizeBytes: end } = before;
  const { format } = world.imageOf(disk);
  const backBytes = format === 'raw' ? 0 : Math.ceil(end / CLUSTER_BYTES) * CLUSTER_BYTES - end;
  const difference = before.resized(sizeBytes).differenceTo(disk.content.filled(0, end, backBytes));
  assert.equal(difference, null, `nothing but zeroes is added to ${disk.spec.name}`);
}

/** @returns false where an inconsistent bitmap, of a VM that was killed, keeps an image from growing */
async function unlessInconsistent(resized: Promise<unknown>): Promise<boolean> {
  try {
    await resized;
    return true;
  } catch (error) {
    if (!messageOf(error).includes('is inconsistent and cannot be used')) throw error;
    return false;
  }
}

async function removeBitmaps(world: World, disk: ModelDisk): Promise<void> {
  const { path, format } = world.imageOf(disk);
  if (format === 'raw') return;
  const qemuImg = join(world.vm.bin, 'qemu-img');
  const { stdout } = await execa(qemuImg, ['info', '--output=json', path]);
  const info = JSON.parse(stdout) as {
    'format-specific'?: { data?: { bitmaps?: readonly { name: string }[] } };
  };
  for (const { name } of info['format-specific']?.data?.bitmaps ?? []) {
    await execa(qemuImg, ['bitmap', '--remove', path, name]);
  }
}

/** All overlays into the lowest image, to which the VM then writes again. Below a filter of its own it has to be stopped for it. */
async function commitAll(world: World, disk: ModelDisk): Promise<void> {
  if (disk.spec.throttle === undefined) await commitRunning(world, disk);
  else await whileStopped(world, () => commitStopped(world, disk));
}

async function commitStopped(world: World, disk: ModelDisk): Promise<void> {
  const [lowest] = disk.images;
  if (lowest === undefined) return;
  const { path } = world.imageOf(disk);
  await execa(join(world.vm.bin, 'qemu-img'), ['commit', '-q', '-d', '-b', lowest.path, path]);
  await world.removeOthers(disk, [lowest]);
  world.consistsOf(disk, [lowest]);
}

async function commitRunning(world: World, disk: ModelDisk): Promise<void> {
  const { vm } = world;
  const [lowest] = disk.images;
  if (lowest === undefined) return;
  const nodes = (await vm.qmp.execute('query-named-block-nodes', { flat: true })) as {
    'node-name': string;
    drv: string;
    file: string;
  }[];
  const base = nodes.find(({ drv, file }) => drv === lowest.format && file === lowest.path)?.['node-name'];
  const events = vm.qmp.listen();
  try {
    const job = { 'job-id': 'commit', device: disk.node, 'base-node': base };
    await vm.qmp.execute('block-commit', job);
    for (;;) {
      const { name } = await events.next({ timeoutMs: 20_000 });
      if (name === 'BLOCK_JOB_READY') await vm.qmp.execute('block-job-complete', { device: 'commit' });
      if (name === 'BLOCK_JOB_COMPLETED') break;
    }
  } finally {
    events.close();
  }
  await world.removeOthers(disk, [lowest]);
  world.consistsOf(disk, [lowest]);
  disk.node = base ?? '';
}
