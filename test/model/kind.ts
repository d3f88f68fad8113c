/** A kind of operation: what it takes, how often it comes, and what it does to the world and to its shadow. */
import fc from 'fast-check';
import { KiB } from '../../src/base/units.ts';
import type { ModelDisk, World } from './world.ts';

/** `passed`: there was nothing to do, or a fault came too late to be one. */
export type Outcome = 'done' | 'passed';

export interface Kind<P> {
  /** How often it comes, in proportion to the others. */
  readonly weight: number;
  readonly parameters: fc.Arbitrary<P>;
  perform(world: World, parameters: P): Promise<Outcome>;
}

/** Lets TypeScript infer the parameters. */
export function kind<P>(kind: Kind<P>): Kind<P> {
  return kind;
}

export const nothing = fc.constant({});

/** One of however many there are then. */
export const choice = fc.nat({ max: 30 });

export function chosen<T>(from: readonly T[], choice: number): T | undefined {
  return from[choice % Math.max(1, from.length)];
}

const SECTOR_BYTES = 512;
const PLACES = 1 << 16;
const place = fc.nat({ max: PLACES - 1 });

export interface Write {
  readonly disk: number;
  readonly pattern: number;
  readonly place: number;
  readonly sectors: number;
}

export const write: fc.Arbitrary<Write> = fc.record({
  disk: choice,
  pattern: fc.integer({ min: 1, max: 255 }),
  place,
  sectors: fc.oneof(
    fc.integer({ min: 1, max: 16 }),
    fc.integer({ min: 1, max: 400 }),
    fc.integer({ min: 128, max: 4096 }),
  ),
});
export const writes = (maxLength: number) => fc.array(write, { minLength: 1, maxLength });

/** What of a disk is meant by a place and a length; aligned, and at least one unit. null: it is too small for that. */
export function rangeOn(
  { content }: ModelDisk,
  { place, sectors }: { place: number; sectors: number },
  unitBytes = SECTOR_BYTES,
): { offset: number; length: number } | null {
  const units = Math.floor(content.sizeBytes / unitBytes);
  if (units === 0) return null;
  const first = Math.floor((place / PLACES) * units);
  const wanted = Math.ceil((sectors * SECTOR_BYTES) / unitBytes);
  return { offset: first * unitBytes, length: Math.min(wanted, units - first) * unitBytes };
}

export const CLUSTER_BYTES = 64 * KiB;

/** The guest writes, and the shadow notes it. */
export async function writeOn(world: World, wishes: readonly Write[]): Promise<void> {
  for (const wish of wishes) {
    const disk = chosen(world.attached, wish.disk);
    const range = disk && rangeOn(disk, wish);
    if (!disk || !range) continue;
    await world.vm.write(disk.spec.name, wish.pattern, range.offset, range.length);
    disk.content = disk.content.filled(wish.pattern, range.offset, range.length);
  }
}
