/**
 * A VM that is there to see whether a guest comes up: on images of ours that are thrown away, without a network, and
 * dead with us whatever ends us. What it runs is as little to be trusted as any guest, so QEMU's own sandbox is on.
 */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { GuestAgent, type QmpClient } from '../../qmp/index.ts';
import { bounded, cancelledBy, throwIfAborted } from '../base/deadline.ts';
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { socketPath } from '../base/ids.ts';
import { MiB } from '../base/units.ts';
import { type Accelerator, workingAccelerator } from './accelerator.ts';
import { kill, processIn, startDetached } from './detached-process.ts';
import { connectMonitor } from './monitor.ts';
import { pngOf } from './png.ts';
import { SerialConsole } from './serial-console.ts';
import type { QemuTools } from './tools.ts';

export const BUSES = ['virtio', 'scsi', 'sata', 'nvme'] as const;
export type Bus = (typeof BUSES)[number];

export interface Machine {
  /** What the guest's disks hang on. */
  readonly bus: Bus;
  readonly memoryBytes: number;
  /** More arguments of QEMU, after ours. */
  readonly args: readonly string[];
}

export interface TrialOptions extends Machine {
  readonly tools: QemuTools;
  /** Ours alone: keeps what the process is and says, and the screenshot. */
  readonly dir: string;
  /** Ours alone, with a short path. */
  readonly socketDir: string;
  /** qcow2 images of ours, in the order in which the firmware tries them. */
  readonly disks: readonly { readonly name: string; readonly path: string }[];
  readonly signal?: AbortSignal | undefined;
}

/** Who has to speak up: by this line on the serial console, or else the guest agent. */
export interface Wait {
  readonly line?: RegExp | undefined;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
}

export interface Answer {
  /** null: nobody did. */
  readonly from: 'agent' | 'line' | null;
  /** What was said, or how it ended instead. */
  readonly what: string;
}

const START_MS = 20_000;
const SCREEN_MS = 10_000;
/** The agent is asked again so often: whoever asked before a reset is not answered. */
const ASK_MS = 5_000;
/** What the firmware and the guest are told apart by; more than that no bus carries. */
const SERIAL_MAX_CHARACTERS = 20;
const SANDBOX = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny';

export class TrialVm {
  readonly accelerator: Accelerator;
  readonly #dir: string;
  readonly #socketDir: string;
  readonly #serial: SerialConsole;
  readonly #client: QmpClient;
  readonly #exited: Promise<string>;

  private constructor(
    { dir, socketDir }: TrialOptions,
    accelerator: Accelerator,
    serial: SerialConsole,
    client: QmpClient,
    exited: Promise<string>,
  ) {
    this.#dir = dir;
    this.#socketDir = socketDir;
    this.accelerator = accelerator;
    this.#serial = serial;
    this.#client = client;
    this.#exited = exited;
  }

  /** @throws boot-failed with what QEMU says, path-too-long, cancelled; nothing is left running then */
  static async start(options: TrialOptions): Promise<TrialVm> {
    const { tools, dir, socketDir, signal } = options;
    const monitor = socketPath(join(socketDir, 'qmp.sock'));
    const accelerator = await workingAccelerator(tools, dir);
    throwIfAborted(signal);
    const serial = await SerialConsole.listen(join(socketDir, 'serial.sock'));
    let child: ChildProcess | undefined;
    try {
      const command = [tools.qemuSystem, ...argumentsOf(options, accelerator, serial.path)];
      child = await startDetached(dir, ['setpriv', '--pdeathsig', 'KILL', ...command], {
        code: 'boot-failed',
      });
      const exited = once(child, 'exit').then(([code, name]) => name ?? `exit code ${code}`);
      const program = 'qemu-system-x86_64';
      const client = await connectMonitor({
        path: monitor,
        child,
        program,
        code: 'boot-failed',
        timeoutMs: START_MS,
        signal,
      });
      return new TrialVm(options, accelerator, serial, client, exited);
    } catch (error) {
      child?.kill('SIGKILL');
      serial.close();
      if (signal?.aborted) throw cancelledBy(signal);
      throw await notStarted(error, dir);
    }
  }

  /** What came over its serial port. */
  get log(): string {
    return this.#serial.text;
  }

  /** @throws scratch-full when its images have no room left, cancelled */
  async answer({ line, timeoutMs, signal }: Wait): Promise<Answer> {
    throwIfAborted(signal);
    const ended = new AbortController();
    const contenders = [
      line === undefined
        ? this.#agent(ended.signal)
        : this.#serial.line(line).then((what): Answer => ({ from: 'line', what })),
      this.#exited.then((how) => this.#end(how)),
      this.#noRoom(),
    ];
    for (const contender of contenders) contender.catch(() => {});
    try {
      return await bounded(Promise.race(contenders), { timeoutMs, signal, what: 'the guest' });
    } catch (error) {
      throwIfAborted(signal);
      if (codeOf(error) !== 'internal') throw error;
      const who = line === undefined ? 'the guest agent' : `a line like ${line}`;
      return { from: null, what: `${who} did not come within ${Math.round(timeoutMs / 1000)} s` };
    } finally {
      ended.abort();
    }
  }

  /** A PNG of what is on its display; null when there is none, or it does not tell. */
  async screenshot(): Promise<Buffer | null> {
    const filename = join(this.#dir, 'screen.ppm');
    try {
      await this.#client.execute('screendump', { filename }, { timeoutMs: SCREEN_MS });
      return pngOf(await readFile(filename));
    } catch {
      return null;
    }
  }

  /** At once. Idempotent. */
  async end(): Promise<void> {
    const id = await processIn(this.#dir);
    if (id !== null) await kill(id);
    await this.#client.close();
    this.#serial.close();
  }

  async #agent(signal: AbortSignal): Promise<Answer> {
    const path = join(this.#socketDir, 'agent.sock');
    for (;;) {
      try {
        const agent = await GuestAgent.connect({ path, timeoutMs: ASK_MS, signal });
        await agent.close();
        return { from: 'agent', what: 'the guest agent answered' };
      } catch (error) {
        throwIfAborted(signal);
        // Nobody listens: QEMU is about to be gone, which is heard of elsewhere.
        if (codeOf(error) !== 'qmp-agent') throw error;
      }
    }
  }

  async #end(how: string): Promise<Answer> {
    const said = (await logOf(this.#dir)).split('\n').at(-1);
    return { from: null, what: `it ended before anybody answered (${how}${said ? `: ${said}` : ''})` };
  }

  /** By default QEMU stops a guest whose write finds no room. */
  async #noRoom(): Promise<never> {
    const full = this.#client.listen(
      ({ name, data }) => name === 'BLOCK_IO_ERROR' && data['nospace'] === true,
    );
    try {
      await full.next();
    } catch {
      return await new Promise<never>(() => {});
    }
    throw new QmpvaultError(
      'scratch-full',
      'the guest wrote more than the scratch space has room for: free some, or name another with --scratch',
    );
  }
}

function argumentsOf(
  { socketDir, disks, bus, memoryBytes, args }: TrialOptions,
  accelerator: Accelerator,
  serial: string,
): string[] {
  const listening = (name: string) => `${quoted(socketPath(join(socketDir, name)))},server=on,wait=off`;
  return [
    ...['-machine', 'q35', '-accel', accelerator, '-cpu', 'max', '-m', `${Math.ceil(memoryBytes / MiB)}`],
    ...['-nodefaults', '-no-user-config', '-sandbox', SANDBOX, '-display', 'none', '-vga', 'std'],
    ...['-qmp', `unix:${listening('qmp.sock')}`],
    ...['-chardev', `socket,id=serial,path=${quoted(serial)}`, '-serial', 'chardev:serial'],
    ...['-chardev', `socket,id=agent,path=${listening('agent.sock')}`, '-device', 'virtio-serial-pci'],
    ...['-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0'],
    ...(bus === 'scsi' ? ['-device', 'virtio-scsi-pci,id=scsi'] : []),
    ...disks.flatMap(({ name, path }, i) => {
      const node = `disk${i}`;
      const file = { driver: 'file', filename: path };
      // Nobody needs them after a power failure.
      const image = { driver: 'qcow2', 'node-name': node, cache: { 'no-flush': true }, file };
      const device = DEVICES[bus](i);
      const serial = quoted(name.slice(0, SERIAL_MAX_CHARACTERS));
      return [
        ...['-blockdev', JSON.stringify(image)],
        ...['-device', `${device},drive=${node},serial=${serial},bootindex=${i + 1}`],
      ];
    }),
    ...args,
  ];
}

const DEVICES: Readonly<Record<Bus, (nth: number) => string>> = {
  virtio: () => 'virtio-blk-pci',
  scsi: () => 'scsi-hd,bus=scsi.0',
  sata: (nth) => `ide-hd,bus=ide.${nth}`,
  nvme: () => 'nvme',
};

/** In a QemuOpts value a comma is doubled. */
function quoted(value: string): string {
  return value.replaceAll(',', ',,');
}

async function notStarted(error: unknown, dir: string): Promise<unknown> {
  if (codeOf(error) !== 'boot-failed') return error;
  const said = await logOf(dir);
  return new QmpvaultError('boot-failed', `the VM for the trial did not start: ${said || messageOf(error)}`, {
    details: { said },
    cause: error,
  });
}

/** What QEMU itself said. */
async function logOf(dir: string): Promise<string> {
  const log = await readFile(join(dir, 'log'), 'utf8').catch(() => '');
  return log.trim().slice(-2_000);
}
