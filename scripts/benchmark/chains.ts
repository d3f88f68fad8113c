/** Long chains: restoring from the end of one, and deleting in the middle. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { vmName } from '../../src/base/ids.ts';
import { KiB, MiB } from '../../src/base/units.ts';
import { restorePoint } from '../../src/restore/restore.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { type TestSite, testSite } from '../../test/helpers/engine.ts';
import { type FixtureVm, qemuBin } from '../../vm-fixtures/guestless.ts';
import { convert, copy, settle } from './baselines.ts';
import { imageWithData } from './data.ts';
import { type Figure, ratios, samples, TARGETS } from './figures.ts';
import type { Laboratory } from './laboratory.ts';
import type { Extent } from './plan.ts';

const DEPTH = 30;
const LAYER_BYTES = 8 * MiB;
/** Of the point that goes; what stands on it is larger. */
const SMALLER_BYTES = [4 * MiB, 16 * MiB, 64 * MiB];
const LARGER_BYTES = 128 * MiB;

export async function measureChains(lab: Laboratory, extent: Extent): Promise<Figure[]> {
  const bin = qemuBin(lab.qemu);
  await imageWithData({ bin, dir: lab.dir, disk: 'vda' }, extent);
  const vm = await lab.startVm([{ name: 'vda', sizeBytes: extent.diskBytes }], lab.dir);
  const site = await testSite(lab, { bin });
  const restores = await measureRestore(lab, site, vm, extent);
  return [...restores, ...(await measureDelete(lab, site, vm))];
}

async function measureRestore(
  lab: Laboratory,
  site: TestSite,
  vm: FixtureVm,
  { fulls: rounds, diskBytes }: Extent,
): Promise<Figure[]> {
  const points: Manifest[] = [];
  for (let nth = 0; nth < DEPTH; nth += 1) points.push(await layer(site, vm, diskBytes, LAYER_BYTES, nth));
  const bin = qemuBin(lab.qemu);
  const top = fileOf(site, points.at(-1));
  const flat = join(lab.dir, 'flat.qcow2');
  await execa(join(bin, 'qemu-img'), ['convert', '-f', 'qcow2', '-O', 'qcow2', top, flat]);
  const target = join(lab.dir, 'restored');
  const [restored, converted, ofFlat]: [number[], number[], number[]] = [[], [], []];
  const contenders = [
    async () => converted.push(await convert(bin, top, `${target}.qcow2`)),
    async () => ofFlat.push(await convert(bin, flat, `${target}.qcow2`)),
    async () => {
      await settle(lab.dir);
      restored.push(await timed(() => restoreTo(site, target)));
      await rm(target, { recursive: true });
    },
  ];
  for (let round = 0; round < rounds; round += 1) {
    for (let i = 0; i < contenders.length; i += 1) await contenders[(round + i) % contenders.length]?.();
  }
  const what = `restore of ${DEPTH} points deep`;
  return [
    samples(what, 'ms', restored),
    ratios(`${what} / convert of the same chain + fsync`, restored, converted, TARGETS.restoreToConvert),
    ratios(`${what} / convert of one flat file + fsync`, restored, ofFlat),
  ];
}

async function measureDelete(lab: Laboratory, site: TestSite, vm: FixtureVm): Promise<Figure[]> {
  const figures: Figure[] = [];
  const { sizeBytes } = vm.disk('vda');
  for (const [nth, bytes] of SMALLER_BYTES.entries()) {
    const smaller = await layer(site, vm, sizeBytes, bytes, 100 + nth);
    await layer(site, vm, sizeBytes, LARGER_BYTES, 200 + nth);
    const copied = await copy(fileOf(site, smaller), join(lab.dir, 'copy'));
    await settle(lab.dir);
    const request = { vm: vmName('vm1'), point: smaller.id, descendants: 'refuse' as const };
    const deleted = await timed(() => deletePoint(site.engine, site.vault, request));
    const what = `delete in the middle, smaller layer ${bytes / MiB} MiB of ${LARGER_BYTES / MiB}`;
    figures.push(samples(what, 'ms', [deleted]), ratios(`${what} / cp + fsync of it`, [deleted], [copied]));
  }
  return figures;
}

/** A point for which so many bytes changed, in pieces all over the disk. */
async function layer(
  site: TestSite,
  vm: FixtureVm,
  diskBytes: number,
  bytes: number,
  nth: number,
): Promise<Manifest> {
  const piece = 256 * KiB;
  const count = bytes / piece;
  const spacing = Math.floor(diskBytes / count / piece) * piece;
  const first = (nth % (spacing / piece)) * piece;
  for (let i = 0; i < count; i += 1) await vm.write('vda', 1 + (nth % 250), first + i * spacing, piece);
  return (await site.backUp(vm, { fullEvery: 1_000 })).point;
}

function fileOf(site: TestSite, point: Manifest | undefined): string {
  return join(site.vault.path, 'vm1', point?.id ?? '', point?.disks[0]?.file ?? '');
}

function restoreTo(site: TestSite, dir: string): Promise<unknown> {
  const request = { vm: vmName('vm1'), point: 'latest', target: { dir }, format: 'qcow2' as const };
  return restorePoint(site.engine.tools, site.vault, request);
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}
