/** External snapshots, as somebody else takes them. */
import type { FixtureVm } from '../../vm-fixtures/guestless.ts';

/** A snapshot as its tools take it: of a device (above everything) or of a node. */
export async function takeSnapshot(
  vm: FixtureVm,
  of: { device: string } | { node: string },
  file: string,
): Promise<void> {
  const which = 'device' in of ? { device: of.device } : { 'node-name': of.node };
  await vm.qmp.execute('blockdev-snapshot-sync', {
    ...which,
    'snapshot-file': file,
    'snapshot-node-name': 'overlay',
    format: 'qcow2',
  });
}
