/**
 * A VM with a real, small Linux in it, ready in 2-6 s under TCG. Its disks are ext4 on `/mnt/<disk's name>`
 * (made when the disk is empty), the QEMU guest agent answers on `agentSocket`. The kernel has virtio and nvme, no
 * ahci; a `nameless` disk has no serial number and is found under its kernel name, `/mnt/vda`.
 */
import { join } from 'node:path';
import { escapeComma } from './disk.ts';
import { FixtureError } from './errors.ts';
import { FixtureVm, type VmOptions } from './fixture-vm.ts';
import { type CommandResult, GuestConsole } from './guest-console.ts';
import { guestImage } from './guest-image.ts';

const BOOT_TIMEOUT_MS = 60_000;
const COMMAND_TIMEOUT_MS = 30_000;
const MEMORY_MIB = 160;

/** What makes a QEMU with so many disks boot this Linux. */
export function linuxArgs(disks: number): string[] {
  const { kernel, initrd } = guestImage();
  return [
    // Without a source of randomness each of ext4's UUIDs waits for seconds.
    ...['-cpu', 'qemu64,+rdrand'],
    ...['-kernel', kernel, '-initrd', initrd],
    ...['-append', `console=ttyS0 quiet panic=-1 nokaslr mitigations=off qv.disks=${disks}`],
  ];
}

export class LinuxGuest {
  readonly vm: FixtureVm;
  readonly #consoleSocket: string;
  #console: GuestConsole;

  private constructor(vm: FixtureVm, consoleSocket: string, console: GuestConsole) {
    this.vm = vm;
    this.#consoleSocket = consoleSocket;
    this.#console = console;
  }

  /** Resolves when the disks are mounted and commands are taken. @throws FixtureError */
  static async start(options: VmOptions): Promise<LinuxGuest> {
    const consoleSocket = join(options.dir, 'console.sock');
    const disks = options.disks.filter((disk) => disk.attach !== 'cdrom').length;
    const vm = await FixtureVm.start({
      memoryMiB: MEMORY_MIB,
      ...options,
      agentSocket: true,
      extraArgs: [
        ...linuxArgs(disks),
        ...['-serial', `file:${escapeComma(join(options.dir, 'kernel.log'))}`],
        ...['-serial', `unix:${escapeComma(consoleSocket)},server=on,wait=off`],
        ...(options.extraArgs ?? []),
      ],
    });
    try {
      const console = await GuestConsole.connect(consoleSocket);
      await console.ready(BOOT_TIMEOUT_MS);
      return new LinuxGuest(vm, consoleSocket, console);
    } catch (error) {
      await vm.kill();
      throw error;
    }
  }

  /** Of the guest agent. */
  get agentSocket(): string {
    return this.vm.agentSocket;
  }

  /** Runs a shell command in the guest. */
  run(command: string, { timeoutMs = COMMAND_TIMEOUT_MS } = {}): Promise<CommandResult> {
    return this.#console.run(command, timeoutMs);
  }

  /** The output of a command that has to succeed. @throws FixtureError guest-io */
  async sh(command: string, options?: { timeoutMs?: number }): Promise<string> {
    const { output, status } = await this.run(command, options);
    if (status !== 0)
      throw new FixtureError('guest-io', `in the guest: ${command}: status ${status}: ${output}`);
    return output;
  }

  /** From now on the guest rewrites twenty files of 1 MiB on this disk as fast as it can, and counts in `counter`. */
  async startLoad(disk: string): Promise<void> {
    await this.sh(`cd /mnt/${disk}
      n=0
      while :; do
        n=$((n + 1))
        dd if=/dev/urandom of=load.$((n % 20)) bs=64k count=16 conv=fsync
        echo $n >counter.new && mv counter.new counter
      done >/dev/null 2>&1 &`);
  }

  /** Waits until the guest has come up again after a reset. */
  ready(): Promise<void> {
    return this.#console.ready(BOOT_TIMEOUT_MS);
  }

  /** Boots the same guest again, after an orderly shutdown if it is alive; on other images where given. */
  async restart(options?: { images?: Readonly<Record<string, string>> }): Promise<void> {
    if (this.vm.isAlive) await this.shutdown();
    await this.vm.restart(options);
    this.#console = await GuestConsole.connect(this.#consoleSocket);
    await this.ready();
  }

  /** Unmounts and powers off. */
  async shutdown(): Promise<void> {
    await this.sh('umount -a -t ext4; sync; (usleep 100000; poweroff -f) >/dev/null 2>&1 &');
    await this.vm.waitDead();
    this.#console.close();
  }

  async kill(): Promise<void> {
    this.#console.close();
    await this.vm.kill();
  }
}

/** @throws FixtureError fixture-missing, vm-start, guest-io, fixture-timeout */
export function startGuest(options: VmOptions): Promise<LinuxGuest> {
  return LinuxGuest.start(options);
}
