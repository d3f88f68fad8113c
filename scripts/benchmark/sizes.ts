/** Disks without data: does the cost follow the data or the size? */
import { GiB, KiB, MiB } from '../../src/base/units.ts';
import type { FixtureVm } from '../../vm-fixtures/guestless.ts';
import { settle } from './baselines.ts';
import { type Backup, Command } from './command.ts';
import { type Figure, median, ratios, samples, TARGETS } from './figures.ts';
import { emptyDisk, type Laboratory } from './laboratory.ts';
import type { Extent } from './plan.ts';

const SMALL_GIB = 8;
const EMPTY_GIB = 100;
const DIRTY_CLUSTERS = 64;

export async function measureEmptyFull(lab: Laboratory, { emptyFulls }: Extent): Promise<Figure[]> {
  const vm = await lab.startVm([emptyDisk('vda', EMPTY_GIB)]);
  const command = new Command(lab.dir, lab.qemu);
  const backups: Backup[] = [];
  for (let round = 0; round < emptyFulls; round += 1) {
    await settle(lab.dir);
    backups.push(await command.backUp('empty', vm, { full: true }));
  }
  const name = `full of an empty disk of ${EMPTY_GIB} GiB`;
  return [
    samples(
      `${name}, engine`,
      'ms',
      backups.map(({ engineMs }) => engineMs),
      TARGETS.emptyFullMs,
    ),
    {
      name: `${name}, stored`,
      value: median(backups.map(({ storedBytes }) => storedBytes)) / MiB,
      unit: 'MiB',
    },
  ];
}

/** The same few clusters are dirty on a small and on a huge disk, both otherwise empty. */
export async function measureSizes(lab: Laboratory, { incrementals, hugeGib }: Extent): Promise<Figure[]> {
  const small = await lab.startVm([emptyDisk('vda', SMALL_GIB)]);
  const huge = await lab.startVm([emptyDisk('vda', hugeGib)]);
  const command = new Command(lab.dir, lab.qemu);
  const contenders = [
    { name: 'small', vm: small, took: [] as number[] },
    { name: 'huge', vm: huge, took: [] as number[] },
  ];
  for (const { name, vm } of contenders) await command.backUp(name, vm);
  for (let round = 0; round < incrementals; round += 1) {
    for (const { name, vm, took } of round % 2 === 0 ? contenders : contenders.toReversed()) {
      await dirty(vm, 1 + round);
      await settle(lab.dir);
      took.push((await command.backUp(name, vm)).engineMs);
    }
  }
  const [{ took: smallMs }, { took: hugeMs }] = contenders as [
    (typeof contenders)[0],
    (typeof contenders)[0],
  ];
  const what = `${DIRTY_CLUSTERS} x 64 KiB dirty`;
  return [
    samples(`${what} on ${SMALL_GIB} GiB, engine`, 'ms', smallMs),
    samples(`${what} on ${hugeGib} GiB, engine`, 'ms', hugeMs),
    ratios(`${what}, ${hugeGib} GiB / ${SMALL_GIB} GiB`, hugeMs, smallMs, TARGETS.hugeToSmall),
  ];
}

async function dirty(vm: FixtureVm, pattern: number): Promise<void> {
  const spacing = (SMALL_GIB * GiB) / DIRTY_CLUSTERS;
  for (let i = 0; i < DIRTY_CLUSTERS; i += 1) await vm.write('vda', pattern, i * spacing, 64 * KiB);
  await vm.flush('vda');
}
