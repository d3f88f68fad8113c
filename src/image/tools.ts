/** Which QEMU programs to start. They need not be of the VM's own version: a newer writer serves an older VM. */
import { join } from 'node:path';

export interface QemuTools {
  readonly qemuImg: string;
  readonly qemuIo: string;
  readonly storageDaemon: string;
  readonly qemuNbd: string;
  readonly qemuSystem: string;
}

/** The programs in `binDir`; without it their bare names, which are looked up in PATH when started. */
export function qemuTools(binDir?: string): QemuTools {
  const tool = (name: string) => (binDir === undefined ? name : join(binDir, name));
  return {
    qemuImg: tool('qemu-img'),
    qemuIo: tool('qemu-io'),
    storageDaemon: tool('qemu-storage-daemon'),
    qemuNbd: tool('qemu-nbd'),
    qemuSystem: tool('qemu-system-x86_64'),
  };
}
