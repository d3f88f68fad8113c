/** A disk that lost its bitmap: comparing it beside copying it, and what is stored of it. */
import { GiB, MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { settle } from './baselines.ts';
import { type Backup, Command } from './command.ts';
import { imageWithData } from './data.ts';
import { type Figure, ratios, samples, TARGETS } from './figures.ts';
import type { Laboratory } from './laboratory.ts';
import type { Extent } from './plan.ts';

const DISK_BYTES = 8 * GiB;
const CHANGED_BYTES = 16 * MiB;

export async function measureResync(lab: Laboratory, { dataBytes, emptyFulls }: Extent): Promise<Figure[]> {
  const dataOfDisk = 2 * dataBytes;
  const images = { bin: qemuBin(lab.qemu), dir: lab.dir, disk: 'vda' };
  await imageWithData(images, { diskBytes: DISK_BYTES, dataBytes: dataOfDisk });
  const vm = await lab.startVm([{ name: 'vda', sizeBytes: DISK_BYTES }], lab.dir);
  const command = new Command(lab.dir, lab.qemu);
  const [fulls, resyncs]: [Backup[], Backup[]] = [[], []];
  for (let round = 0; round < emptyFulls; round += 1) {
    await settle(lab.dir);
    fulls.push(await command.backUp('resync', vm, { full: true }));
    for (const { node, name } of (await vm.leftovers()).bitmaps) {
      await vm.qmp.execute('block-dirty-bitmap-remove', { node, name });
    }
    await vm.write('vda', 1 + round, round * CHANGED_BYTES, CHANGED_BYTES);
    await vm.flush('vda');
    await settle(lab.dir);
    resyncs.push(await command.backUp('resync', vm));
  }
  const engineMs = (backups: readonly Backup[]) => backups.map((backup) => backup.engineMs);
  const what = `${DISK_BYTES / GiB} GiB with ${dataOfDisk / MiB} MiB of data`;
  return [
    samples(`full of ${what}, engine`, 'ms', engineMs(fulls)),
    samples(`resync of ${what}, engine`, 'ms', engineMs(resyncs)),
    ratios('resync / full', engineMs(resyncs), engineMs(fulls)),
    ratios(
      `stored by a resync / the ${CHANGED_BYTES / MiB} MiB that changed`,
      resyncs.map(({ storedBytes }) => storedBytes),
      [CHANGED_BYTES],
      TARGETS.resyncStored,
    ),
  ];
}
