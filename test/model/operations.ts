/** All kinds of operations, and sequences of them. */
import fc from 'fast-check';
import { MiB } from '../../src/base/units.ts';
import type { DiskSpec } from '../../vm-fixtures/guestless.ts';
import { engineDeathKinds } from './engine-death-kinds.ts';
import { faultKinds } from './fault-kinds.ts';
import { guestKinds } from './guest-kinds.ts';
import type { Kind, Outcome } from './kind.ts';
import { meddlingKinds } from './meddling-kinds.ts';
import { vaultKinds } from './vault-kinds.ts';
import type { Layout, World } from './world.ts';

const FAULTS = { ...engineDeathKinds, ...faultKinds, ...meddlingKinds };
const KINDS = { ...guestKinds, ...vaultKinds, ...FAULTS };
type Kinds = typeof KINDS;
export type KindName = keyof Kinds;
type ParametersOf<K> = K extends Kind<infer P> ? P : never;
/** As plain data, so that a failure can be written down as a test. */
export type Operation = { [K in KindName]: { readonly kind: K } & ParametersOf<Kinds[K]> }[KindName];

export const KIND_NAMES = Object.keys(KINDS) as KindName[];
export const isFault = (kind: KindName): boolean => Object.hasOwn(FAULTS, kind);

export function perform(world: World, operation: Operation): Promise<Outcome> {
  return (KINDS[operation.kind] as Kind<unknown>).perform(world, operation);
}

const operation: fc.Arbitrary<Operation> = fc.oneof(
  ...KIND_NAMES.map((name) => {
    const { weight, parameters } = KINDS[name] as Kind<object>;
    const arbitrary = parameters.map(
      (parameters) => ({ kind: name, ...parameters }) as Operation,
      (operation) => operation as object,
    );
    return { weight, arbitrary };
  }),
);

const DISK_KINDS: readonly Partial<DiskSpec>[] = [
  {},
  { format: 'raw' },
  { attach: 'virtio-scsi' },
  { attach: 'virtio-scsi', iothread: true },
  { iothread: true },
  { format: 'raw', iothread: true },
  { throttle: 0 },
  { throttle: 0, iothread: true },
  { withBacking: true },
  { attach: 'nvme' },
  { attach: 'ahci', format: 'raw' },
];
const diskKind = fc.constantFrom(...DISK_KINDS);
const sizeBytes = fc.constantFrom(4 * MiB, 4 * MiB + 64 * 1024, 8 * MiB);

const layout: fc.Arbitrary<Layout> = fc
  .record({
    kinds: fc.array(diskKind, { minLength: 1, maxLength: 2 }),
    sizes: fc.tuple(sizeBytes, sizeBytes, sizeBytes),
    spareFormat: fc.constantFrom('qcow2' as const, 'raw' as const),
  })
  .map(({ kinds, sizes, spareFormat }) => ({
    disks: [{}, ...kinds].map((kind, i) => ({
      ...kind,
      name: `vd${'abc'[i]}`,
      sizeBytes: sizes[i] ?? 4 * MiB,
    })),
    spare: { name: 'hot', format: spareFormat, sizeBytes: 2 * MiB },
  }));

export interface Sequence {
  readonly layout: Layout;
  readonly operations: readonly Operation[];
}

/** Of any length up to this one; a failing one is shrunk to the shortest that still fails. */
export function sequences(maxOperations: number): fc.Arbitrary<Sequence> {
  const operations = fc.array(operation, { minLength: 1, maxLength: maxOperations, size: 'max' });
  return fc.noBias(fc.record({ layout, operations }));
}
