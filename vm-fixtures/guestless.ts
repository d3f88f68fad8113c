/** VMs without a guest: the door of the fixtures. */
import { FixtureVm, type VmOptions } from './fixture-vm.ts';

export type { BitmapState, Leftovers } from './block-graph.ts';
export { type Attach, BACKING_PATTERN, createDisk, type DiskSpec, type FixtureDisk } from './disk.ts';
export { FixtureError, type FixtureErrorCode } from './errors.ts';
export { FixtureVm, type VmOptions } from './fixture-vm.ts';
export { cacheDir, QEMU_VERSIONS, type QemuVersion, qemuBin } from './qemu-versions.ts';

/** @throws FixtureError fixture-missing, vm-start */
export function startVm(options: VmOptions): Promise<FixtureVm> {
  return FixtureVm.start(options);
}
