/**
 * Many backups of one VM: what they take of the engine and of QEMU is the same after the last one as after the first
 * few. Nodes, bitmaps, scratch, staging, sockets and processes are looked at after each of them, as after every
 * operation of the model.
 */
import { strict as assert } from 'node:assert';
import { readdirSync, readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { CleanupStack } from '../../src/base/cleanup-stack.ts';
import { KiB, MiB } from '../../src/base/units.ts';
import { prune } from '../../src/upkeep/prune.ts';
import type { QemuVersion } from '../../vm-fixtures/guestless.ts';
import { backUpRunning, vaultOf } from './backing-up.ts';
import { examine } from './examination.ts';
import { writeOn } from './kind.ts';
import { Tally } from './tally.ts';
import { type Layout, VM, World } from './world.ts';

const LAYOUT: Layout = {
  disks: [
    { name: 'vda', sizeBytes: 4 * MiB },
    { name: 'vdb', sizeBytes: 4 * MiB, attach: 'virtio-scsi', iothread: true },
  ],
  spare: { name: 'hot', sizeBytes: MiB },
};
const KEPT_POINTS = 10;

export interface Sample {
  /** After so many. */
  readonly backups: number;
  readonly engine: Footprint & { readonly heapBytes: number; readonly resources: number };
  readonly qemu: Footprint;
}

interface Footprint {
  readonly descriptors: number;
  readonly threads: number;
  readonly residentBytes: number;
}

/** @param options.every a sample after so many backups, the first one after as many @throws what leaked */
export async function countLeaks({
  qemu,
  backups,
  every,
  signal,
  onSample,
}: {
  readonly qemu: QemuVersion;
  readonly backups: number;
  readonly every: number;
  readonly signal?: AbortSignal | undefined;
  readonly onSample?: (sample: Sample) => void;
}): Promise<Sample[]> {
  await using undo = new CleanupStack();
  const t = {
    teardown: (act: () => unknown) => undo.add('a part of the world', async () => void (await act())),
  };
  const world = await World.start(t, qemu, LAYOUT, new Tally());
  const model = vaultOf(world, 0);
  const samples: Sample[] = [];
  for (let nth = 1; nth <= backups && !signal?.aborted; nth += 1) {
    const place = (nth * 4093) % 65_536;
    await writeOn(world, [
      { disk: 0, pattern: (nth % 255) + 1, place, sectors: 256 },
      { disk: 1, pattern: (nth % 255) + 1, place, sectors: 64 },
    ]);
    await backUpRunning(world, { vault: 0, fullEvery: 8, during: [] });
    await examine(world);
    if (nth % every !== 0) continue;
    const { removed } = await prune(world.engine, model.vault, {
      vm: VM,
      keep: { last: KEPT_POINTS },
      timeZone: 'UTC',
    });
    for (const id of removed) model.points.delete(id);
    const sample = { backups: nth, engine: engineFootprint(), qemu: footprint(world.vm.pid) };
    samples.push(sample);
    onSample?.(sample);
  }
  refuseGrowth(samples);
  return samples;
}

/** What may be counted is the same; memory, which is taken and given back in pieces, is level from the middle on. */
function refuseGrowth(samples: readonly Sample[]): void {
  const [first, last] = [samples[0], samples.at(-1)];
  const middle = samples[Math.floor(samples.length / 2)];
  if (first === undefined || middle === undefined || last === undefined) return;
  const counts = ({ engine, qemu }: Sample) => ({
    engine: [engine.descriptors, engine.resources],
    qemu: qemu.descriptors,
  });
  assert.deepEqual(counts(last), counts(first), 'descriptors and resources of the engine, and those of QEMU');
  const grown = (of: (sample: Sample) => number) => of(last) - of(middle);
  assert.ok(grown(({ engine }) => engine.heapBytes) < MEMORY_BYTES, 'the heap of the engine is level');
  assert.ok(
    grown(({ engine }) => engine.residentBytes) < 4 * MEMORY_BYTES,
    'the memory of the engine is level',
  );
  assert.ok(grown(({ qemu }) => qemu.residentBytes) < MEMORY_BYTES, 'the memory of QEMU is level');
}

const MEMORY_BYTES = 8 * MiB;

function engineFootprint(): Sample['engine'] {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
  return {
    ...footprint(process.pid),
    heapBytes: process.memoryUsage().heapUsed,
    resources: process.getActiveResourcesInfo().filter((name) => name !== 'Timeout').length,
  };
}

function footprint(pid: number): Footprint {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  const numberOf = (name: string) => Number(new RegExp(`^${name}:\\s*(\\d+)`, 'm').exec(status)?.[1]);
  return {
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
    threads: numberOf('Threads'),
    residentBytes: numberOf('VmRSS') * KiB,
  };
}
