/** A folder, its VMs and its processes, all of which end with it, whatever happens. */
import { CleanupStack } from '../../src/base/cleanup-stack.ts';
import { GiB } from '../../src/base/units.ts';
import { type Teardown, tempDir } from '../../test/helpers/temp-dir.ts';
import { testVm } from '../../test/helpers/vm.ts';
import type { DiskSpec, FixtureVm, QemuVersion } from '../../vm-fixtures/guestless.ts';

export class Laboratory implements Teardown, AsyncDisposable {
  readonly dir: string;
  readonly qemu: QemuVersion;
  readonly #stack = new CleanupStack();

  constructor(qemu: QemuVersion) {
    this.qemu = qemu;
    this.dir = tempDir(this);
  }

  teardown(undo: () => unknown): void {
    this.#stack.add('cleaning up', async () => {
      await undo();
    });
  }

  /** A running VM. Its disks are empty, but where `dir` holds an image of the disk's name. */
  startVm(disks: readonly DiskSpec[], dir?: string): Promise<FixtureVm> {
    return testVm(this, { qemu: this.qemu, disks, ...(dir !== undefined && { dir }) });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.close();
  }
}

export function emptyDisk(name: string, gib: number): DiskSpec {
  return { name, sizeBytes: gib * GiB };
}
