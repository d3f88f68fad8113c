/**
 * A VM without a guest. Nothing runs in it but the firmware; tests write through its devices with QEMU's own
 * `qemu-io`, which takes the way of a guest's write: device, filters, image.
 *
 * Two QMP sockets, since one chardev serves one client: `qmpSocket` is the engine's, `testSocket` the test's own.
 */
import { chownSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { QmpClient } from '../qmp/index.ts';
import { bounded, until } from '../src/base/deadline.ts';
import { socketPath } from '../src/base/ids.ts';
import { activeImage, type BlockDevice, blockDevices, type Leftovers, leftovers } from './block-graph.ts';
import { DeviceIo } from './device-io.ts';
import { createDisk, type DiskSpec, diskArgs, escapeComma, type FixtureDisk, formatNode } from './disk.ts';
import { FixtureError } from './errors.ts';
import { QemuProcess } from './qemu-process.ts';
import { type QemuVersion, qemuBin } from './qemu-versions.ts';

export interface VmOptions {
  readonly qemu: QemuVersion;
  /** exists; the images, the sockets, `qemu.log` and `qemu.out` are made in it; short, for the sockets */
  readonly dir: string;
  readonly disks: readonly DiskSpec[];
  readonly name?: string;
  readonly uuid?: string;
  readonly memoryMiB?: number;
  /** a socket for the guest agent, on the port `org.qemu.guest_agent.0` */
  readonly agentSocket?: boolean;
  readonly extraArgs?: readonly string[];
  /** QEMU runs as this user; the folder and the images become its own */
  readonly uid?: number;
  readonly gid?: number;
}

/** The controller that `plug` hangs disks on. */
const SPARE_BUS = 'scsi-spare';
const START_TIMEOUT_MS = 20_000;

/** One life of the VM: a restart begins another. */
interface Running {
  readonly process: QemuProcess;
  readonly qmp: QmpClient;
  readonly io: DeviceIo;
}

export class FixtureVm {
  readonly bin: string;
  readonly dir: string;
  readonly disks: FixtureDisk[];
  readonly qmpSocket: string;
  readonly testSocket: string;
  readonly agentSocket: string;
  readonly #options: VmOptions;
  #current: Running | undefined;

  private constructor(options: VmOptions, bin: string, disks: FixtureDisk[]) {
    this.#options = options;
    this.bin = bin;
    this.dir = options.dir;
    this.disks = disks;
    this.qmpSocket = socketPath(join(options.dir, 'qmp.sock'));
    this.testSocket = socketPath(join(options.dir, 'test.sock'));
    this.agentSocket = socketPath(join(options.dir, 'agent.sock'));
  }

  /** @throws FixtureError fixture-missing, vm-start (with what QEMU printed) */
  static async start(options: VmOptions): Promise<FixtureVm> {
    const bin = qemuBin(options.qemu);
    const disks = await Promise.all(options.disks.map((spec) => createDisk(bin, options.dir, spec)));
    const vm = new FixtureVm(options, bin, disks);
    await vm.#start();
    return vm;
  }

  get pid(): number {
    return this.#running().process.pid;
  }

  get isAlive(): boolean {
    return this.#running().process.isAlive;
  }

  /** The test's own connection. */
  get qmp(): QmpClient {
    return this.#running().qmp;
  }

  disk(name: string): FixtureDisk {
    const disk = this.disks.find((d) => d.name === name);
    if (disk === undefined) throw new FixtureError('guest-io', `no disk ${name} in this VM`);
    return disk;
  }

  /** Like a guest's write. Returns how long it took, in ms. @throws FixtureError guest-io */
  write(disk: string, pattern: number, offset: number, length: number): Promise<number> {
    return this.#access(disk, `write -P ${pattern} ${offset} ${length}`, `wrote ${length}/${length} bytes`);
  }

  /** A guest's write-zeroes; with `unmap` the space may be given back. */
  zero(disk: string, offset: number, length: number, { unmap = false } = {}): Promise<number> {
    // On 5.2 and 7.2 `write -z` aborts the whole VM when the device has an iothread; `aio_write -z` does not.
    const command = this.disk(disk).iothread ? 'aio_write' : 'write';
    const flags = unmap ? '-z -u' : '-z';
    return this.#access(disk, `${command} ${flags} ${offset} ${length}`, `wrote ${length}/${length} bytes`);
  }

  discard(disk: string, offset: number, length: number): Promise<number> {
    return this.#access(disk, `discard ${offset} ${length}`, `discard ${length}/${length} bytes`);
  }

  /** Reads and compares with the pattern. @throws FixtureError guest-io */
  verify(disk: string, pattern: number, offset: number, length: number): Promise<number> {
    return this.#access(disk, `read -P ${pattern} ${offset} ${length}`, `read ${length}/${length} bytes`);
  }

  flush(disk: string): Promise<number> {
    return this.#access(disk, 'flush', '');
  }

  /** Any `qemu-io` command through the device; returns what it printed. @throws FixtureError guest-io */
  async qemuIo(disk: string, command: string): Promise<string> {
    return (await this.#running().io.run(this.disk(disk).qdev, command)).output;
  }

  /**
   * A byte-exact copy of what the guest sees now. The caller does not write meanwhile. Flushes first: from
   * outside, `qemu-img -U` sees an image's metadata only as of the last flush.
   */
  async truth(name: string, toFile: string): Promise<void> {
    const disk = this.disk(name);
    let image = { path: disk.image, format: disk.format as string };
    if (this.isAlive) {
      await this.flush(name);
      image = await activeImage(this.qmp, disk.qdev);
    }
    const args = ['convert', '-U', '-f', image.format, '-O', 'raw', image.path, toFile];
    await execa(join(this.bin, 'qemu-img'), args);
  }

  /** Jobs, exports and nodes that a backup should have taken with it, and all bitmaps. */
  leftovers(): Promise<Leftovers> {
    return leftovers(this.qmp);
  }

  /** Plugs in one more disk, on virtio-scsi whatever its `attach` says. */
  async plug(spec: DiskSpec): Promise<FixtureDisk> {
    const disk = await createDisk(this.bin, this.dir, { ...spec, attach: 'virtio-scsi' });
    this.#giveAway();
    const { name } = disk;
    await this.qmp.execute('blockdev-add', { ...formatNode(disk) });
    await this.qmp.execute('device_add', {
      driver: 'scsi-hd',
      bus: `${SPARE_BUS}.0`,
      drive: name,
      id: name,
    });
    disk.qdev = name;
    this.disks.push(disk);
    return disk;
  }

  /** Unplugs a disk that `plug` added; a SCSI disk goes without the guest's consent. */
  async unplug(name: string): Promise<void> {
    this.disks.splice(this.disks.indexOf(this.disk(name)), 1);
    const gone = this.qmp.listen(
      ({ name: event, data }) => event === 'DEVICE_DELETED' && data['device'] === name,
    );
    try {
      await this.qmp.execute('device_del', { id: name });
      await gone.next({ timeoutMs: 5_000 });
    } finally {
      gone.close();
    }
    await this.qmp.execute('blockdev-del', { 'node-name': name });
  }

  /** The operator pauses the VM. */
  async stop(): Promise<void> {
    await this.qmp.execute('stop');
  }

  async cont(): Promise<void> {
    await this.qmp.execute('cont');
  }

  /** An orderly end: images are closed, bitmaps stored. */
  async quit(): Promise<void> {
    // QEMU may be gone before its reply is.
    await this.qmp.execute('quit').catch(() => {});
    await this.waitDead();
  }

  /** SIGKILL. */
  async kill(): Promise<void> {
    this.#running().process.signal('SIGKILL');
    await this.waitDead();
  }

  async waitDead(timeoutMs = 10_000): Promise<void> {
    const { process, qmp } = this.#running();
    await bounded(process.exited, { timeoutMs, what: `QEMU ${process.pid} to end` });
    await qmp.close();
  }

  /** The same VM again, with the same arguments; on other images where given. */
  async restart({ images = {} }: { images?: Readonly<Record<string, string>> } = {}): Promise<void> {
    if (this.isAlive) await this.quit();
    for (const [name, image] of Object.entries(images)) this.disk(name).image = image;
    await this.#start();
  }

  async #start(): Promise<void> {
    this.#giveAway();
    const process = QemuProcess.start({
      program: join(this.bin, 'qemu-system-x86_64'),
      args: this.#args(),
      dir: this.dir,
      uid: this.#options.uid,
      gid: this.#options.gid,
    });
    const qmp = await this.#connect(process);
    this.#current = { process, qmp, io: new DeviceIo(qmp, process) };
    const devices = await blockDevices(qmp);
    for (const disk of this.disks) disk.qdev = devices.find((device) => isOf(device, disk))?.qdev ?? '';
  }

  async #connect(process: QemuProcess): Promise<QmpClient> {
    const ended = new AbortController();
    let how = '';
    void process.exited.then((reason) => {
      how = reason;
      ended.abort();
    });
    try {
      // QEMU makes the socket when it is ready for us; until then there is none, or nobody listens.
      return await until(() => QmpClient.connect({ path: this.testSocket }).catch(() => undefined), {
        what: 'QEMU to listen',
        timeoutMs: START_TIMEOUT_MS,
        signal: ended.signal,
      });
    } catch (cause) {
      process.signal('SIGKILL');
      throw new FixtureError('vm-start', `QEMU did not start: ${how} ${process.stderr.read()}`, cause);
    }
  }

  #args(): string[] {
    const { name, uuid, memoryMiB = 64, agentSocket, extraArgs = [] } = this.#options;
    const socket = (path: string) => `unix:${escapeComma(path)},server=on,wait=off`;
    const args = ['-M', 'q35,accel=tcg', '-m', `${memoryMiB}`, '-display', 'none', '-nodefaults'];
    args.push('-qmp', socket(this.qmpSocket), '-qmp', socket(this.testSocket));
    if (name !== undefined) args.push('-name', escapeComma(name));
    if (uuid !== undefined) args.push('-uuid', uuid);
    if (agentSocket) {
      args.push('-chardev', `socket,id=agent,path=${escapeComma(this.agentSocket)},server=on,wait=off`);
      args.push('-device', 'virtio-serial-pci');
      args.push('-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0');
    }
    return [...args, ...diskArgs(this.disks), '-device', `virtio-scsi-pci,id=${SPARE_BUS}`, ...extraArgs];
  }

  /** Makes everything in the folder the VM's own. */
  #giveAway(): void {
    const { uid, gid = uid } = this.#options;
    if (uid === undefined || gid === undefined) return;
    for (const file of ['.', ...readdirSync(this.dir)]) chownSync(join(this.dir, file), uid, gid);
  }

  async #access(name: string, command: string, expected: string): Promise<number> {
    return (await this.#running().io.run(this.disk(name).qdev, command, expected)).tookMs;
  }

  #running(): Running {
    if (this.#current === undefined) throw new FixtureError('vm-start', 'this VM was never started');
    return this.#current;
  }
}

function isOf({ qdev, file }: BlockDevice, { attach, image, name }: FixtureDisk): boolean {
  if (attach === 'nameless') return file === image;
  return qdev === name || qdev.startsWith(`/machine/peripheral/${name}/`);
}
