/** How long a guest's 4 KiB write takes at most while it is being backed up, and while the NAS hangs. */
import { EXIT } from '../../src/base/errors.ts';
import { GuestWriter, type WriteReport } from '../../test/helpers/guest-writer.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { Command } from './command.ts';
import { imageWithData } from './data.ts';
import { type Figure, TARGETS } from './figures.ts';
import type { Laboratory } from './laboratory.ts';
import type { Extent } from './plan.ts';

/** As many writes as a short backup sees, for comparison. */
const QUIET_WRITES = 400;

export async function measureGuest(lab: Laboratory, extent: Extent): Promise<Figure[]> {
  await imageWithData({ bin: qemuBin(lab.qemu), dir: lab.dir, disk: 'vda' }, extent);
  const vm = await lab.startVm([{ name: 'vda', sizeBytes: extent.diskBytes }], lab.dir);
  const command = new Command(lab.dir, lab.qemu);

  const during = async (work: (writer: GuestWriter) => Promise<unknown>): Promise<WriteReport> => {
    const writer = await GuestWriter.start(vm, 'vda');
    try {
      await work(writer);
    } finally {
      await writer.stop();
    }
    const report = await writer.stop();
    if (report.errors.length > 0) throw new AggregateError(report.errors, 'writes of the guest failed');
    return report;
  };

  const quiet = await during((writer) => writer.progress(QUIET_WRITES));
  const backUp = () => command.backUp('guest', vm, { full: true });
  // Once on a host for each QEMU: it writes out its schema (decision 83).
  const first = await during(backUp);
  const full = await during(backUp);
  const incremental = await during(async () => {
    for (let round = 0; round < extent.incrementals; round += 1) await command.backUp('guest', vm);
  });
  const hanging = await during(async () => {
    const exitCode = await command.backUpHanging('guest', vm);
    if (exitCode !== EXIT.run) throw new Error(`a backup whose NAS hangs ended with ${exitCode}`);
  });
  return [
    worst('no backup', quiet),
    worst('the first full with this QEMU', first),
    worst('a full', full, TARGETS.guestWriteMs),
    worst('incrementals', incremental, TARGETS.guestWriteMs),
    worst('a full whose NAS hangs', hanging, TARGETS.guestWriteMs),
  ];
}

function worst(when: string, { worstMs, p99Ms, count }: WriteReport, target?: Figure['target']): Figure {
  return {
    name: `worst guest write, ${when}`,
    value: worstMs,
    unit: 'ms',
    note: `p99 ${p99Ms.toFixed(1)} ms of ${count} writes`,
    ...(target && { target }),
  };
}
