/** A disk with data: its full beside other programs' copies of it, its increments, and the engine's memory. */
import { join } from 'node:path';
import { KiB, MiB } from '../../src/base/units.ts';
import { testSite } from '../../test/helpers/engine.ts';
import { type FixtureVm, qemuBin } from '../../vm-fixtures/guestless.ts';
import { convert, copy, settle } from './baselines.ts';
import { type Backup, Command } from './command.ts';
import { imageWithData } from './data.ts';
import { type Figure, median, ratios, samples, TARGETS } from './figures.ts';
import type { Laboratory } from './laboratory.ts';
import type { Extent } from './plan.ts';

const DIRTY_CLUSTERS = 1024;
const CLUSTER_BYTES = 64 * KiB;
const WARMING_ROUNDS = 10;

export async function measureCopying(lab: Laboratory, extent: Extent): Promise<Figure[]> {
  const { diskBytes, dataBytes, fulls, incrementals } = extent;
  const bin = qemuBin(lab.qemu);
  const image = await imageWithData({ bin, dir: lab.dir, disk: 'vda' }, extent);
  const vm = await lab.startVm([{ name: 'vda', sizeBytes: diskBytes }], lab.dir);
  const command = new Command(lab.dir, lab.qemu);
  const target = join(lab.dir, 'copy');

  const [converted, copied, full, idle, dirty]: [number[], number[], Backup[], Backup[], Backup[]] = [
    [],
    [],
    [],
    [],
    [],
  ];
  const contenders = [
    async () => converted.push(await convert(bin, image, target)),
    async () => copied.push(await copy(image, target)),
    async () => {
      await settle(lab.dir);
      full.push(await command.backUp('data', vm, { full: true }));
    },
  ];
  for (let round = 0; round < fulls; round += 1) {
    for (let i = 0; i < contenders.length; i += 1) await contenders[(round + i) % contenders.length]?.();
  }
  for (let round = 0; round < incrementals; round += 1) {
    await settle(lab.dir);
    idle.push(await command.backUp('data', vm));
    const spacing = diskBytes / DIRTY_CLUSTERS;
    for (let i = 0; i < DIRTY_CLUSTERS; i += 1) await vm.write('vda', 1 + round, i * spacing, CLUSTER_BYTES);
    await vm.flush('vda');
    await settle(lab.dir);
    dirty.push(await command.backUp('data', vm));
  }

  const warmed = await measureWarmed(lab, vm, incrementals);
  const engineMs = (backups: readonly Backup[]) => backups.map((backup) => backup.engineMs);
  const commandMs = (backups: readonly Backup[]) => backups.map((backup) => backup.commandMs);
  const what = `full of ${dataBytes / MiB} MiB`;
  return [
    samples(`qemu-img convert + fsync`, 'ms', converted),
    samples(`cp + fsync`, 'ms', copied),
    samples(`${what}, engine`, 'ms', engineMs(full)),
    ratios(`${what} / convert + fsync`, engineMs(full), converted, TARGETS.fullToConvert),
    ratios(`${what} / cp + fsync`, engineMs(full), copied),
    ratios(`${what}, whole command with digest / convert + fsync`, commandMs(full), converted),
    samples('nothing dirty, engine', 'ms', engineMs(idle), TARGETS.nothingDirtyMs),
    samples('nothing dirty, an engine that has warmed up', 'ms', warmed, TARGETS.nothingDirtyMs),
    samples('nothing dirty, whole command', 'ms', commandMs(idle)),
    ratios('nothing dirty, engine / full', engineMs(idle), [median(engineMs(full))]),
    samples(`${DIRTY_CLUSTERS} x 64 KiB dirty, engine`, 'ms', engineMs(dirty)),
    samples(`${DIRTY_CLUSTERS} x 64 KiB dirty, whole command`, 'ms', commandMs(dirty)),
    ratios(`${DIRTY_CLUSTERS} x 64 KiB dirty, engine / full`, engineMs(dirty), [median(engineMs(full))]),
    {
      name: 'memory of the engine',
      value: Math.max(...[...full, ...idle, ...dirty].map((backup) => backup.peakMemoryBytes)) / 1e6,
      unit: 'MB',
      target: TARGETS.engineMb,
      note: 'the most of all runs above',
    },
  ];
}

/** What is left when the engine's code has been compiled and optimized, which no command lives long enough for. */
async function measureWarmed(lab: Laboratory, vm: FixtureVm, rounds: number): Promise<number[]> {
  const site = await testSite(lab, { bin: qemuBin(lab.qemu) });
  const took: number[] = [];
  for (let round = -WARMING_ROUNDS; round < rounds; round += 1) {
    await settle(lab.dir);
    const { point } = await site.backUp(vm, { fullEvery: 1_000 });
    if (round >= 0) took.push(point.timings.totalMs);
  }
  return took;
}
