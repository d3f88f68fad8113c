/** One VM behind its QMP socket: who it is, what its QEMU can do, and what state it is in. */
import { z } from 'zod';
import {
  type Capabilities,
  isCapabilities,
  probeCapabilities,
  QmpClient,
  QmpError,
} from '../../qmp/index.ts';
import { QmpvaultError } from '../base/errors.ts';
import { socketPath } from '../base/ids.ts';
import { type BlockGraph, readBlockGraph } from './block-graph.ts';
import { type Disk, type DiskNaming, type Disks, hasIothread, listDisks } from './disks.ts';
import { type VmProcess, vmProcessOf } from './vm-process.ts';

const StatusReply = z.object({ status: z.string() });
export const NameReply = z.object({ name: z.string().optional() });
export const UuidReply = z.object({ UUID: z.string() });
const JobsReply = z.array(z.object({ id: z.string() }));
const MigrateReply = z.object({ status: z.string().optional() });

/** States in which somebody else is moving the VM's disks: no backup, and nothing of ours is put in. */
const MOVING = new Set(['inmigrate', 'postmigrate', 'finish-migrate', 'restore-vm', 'save-vm', 'colo']);
const MIGRATING = new Set([
  'setup',
  'active',
  'postcopy-active',
  'postcopy-paused',
  'device',
  'pre-switchover',
]);

/**
 * What is known of QEMUs, so that they need not be asked: to write out its schema keeps QEMU's main loop, and with it a
 * guest whose disks that loop serves, from anything else for 16 to 60 ms (m: 7.2 and 11.1).
 */
export interface CapabilityMemory {
  /** @param binary version and build @returns what was remembered, if anything was. Never throws, as `remember` */
  recall(binary: string): Promise<unknown>;
  remember(binary: string, capabilities: Capabilities): Promise<void>;
}

export class Vm implements AsyncDisposable {
  readonly socket: string;
  readonly client: QmpClient;
  readonly name: string | null;
  readonly uuid: string;
  readonly #naming: DiskNaming;
  readonly #capabilities: Promise<Capabilities>;
  readonly #process: Promise<VmProcess>;
  readonly #iothreads = new Map<string, Promise<boolean>>();

  private constructor(
    socket: string,
    client: QmpClient,
    capabilities: Promise<Capabilities>,
    name: string | null,
    uuid: string,
    naming: DiskNaming,
    process: Promise<VmProcess>,
  ) {
    this.socket = socket;
    this.client = client;
    this.#capabilities = capabilities;
    this.name = name;
    this.uuid = uuid;
    this.#naming = naming;
    this.#process = process;
  }

  /**
   * Who it is is asked before its schema, and the schema not waited for.
   * @param memory without it, what QEMU can do is asked from it in any case
   * @param timeoutMs how long to wait for the socket to answer; a chardev serves one client at a time
   * @throws vm-unreachable, vm-busy, path-too-long
   */
  static async connect(
    socket: string,
    {
      signal,
      timeoutMs = 10_000,
      naming = 'device',
      memory,
    }: {
      signal?: AbortSignal | undefined;
      timeoutMs?: number;
      naming?: DiskNaming | undefined;
      memory?: CapabilityMemory | undefined;
    } = {},
  ): Promise<Vm> {
    socketPath(socket);
    const client = await connectClient(socket, timeoutMs, signal);
    const { patienceMs } = client;
    client.patienceMs = timeoutMs;
    try {
      const identity = Promise.all([client.execute('query-name'), client.execute('query-uuid')]);
      const process = vmProcessOf(socket);
      // Whoever asks for it is told.
      process.catch(() => {});
      const capabilities = capabilitiesOf(client, process, memory, timeoutMs).catch((error: unknown) => {
        throw unusable(error, socket, timeoutMs);
      });
      // Whoever asks for them is told.
      capabilities.catch(() => {});
      const [name, uuid] = await identity;
      client.patienceMs = patienceMs;
      return new Vm(
        socket,
        client,
        capabilities,
        NameReply.parse(name).name ?? null,
        UuidReply.parse(uuid).UUID,
        naming,
        process,
      );
    } catch (error) {
      await client.close();
      throw unusable(error, socket, timeoutMs);
    }
  }

  get qemuVersion(): string {
    return this.client.version.text;
  }

  /** `running`, `paused`, `prelaunch`, … as QEMU's RunState has them. */
  async status(): Promise<string> {
    return StatusReply.parse(await this.client.execute('query-status')).status;
  }

  graph(): Promise<BlockGraph> {
    return readBlockGraph(this.client);
  }

  /** What this QEMU can do. @throws vm-busy, vm-unreachable, qmp-protocol */
  capabilities(): Promise<Capabilities> {
    return this.#capabilities;
  }

  /** The process behind the socket; looked for once. */
  process(): Promise<VmProcess> {
    return this.#process;
  }

  async disks(): Promise<Disks> {
    const [graph, { directory }] = await Promise.all([this.graph(), this.process()]);
    return listDisks(this.client, graph, { directory, naming: this.#naming });
  }

  /** The ids of all jobs, whosever they are. */
  async jobs(): Promise<string[]> {
    return JobsReply.parse(await this.client.execute('query-jobs')).map(({ id }) => id);
  }

  /** @throws vm-state while the VM is migrating or was migrated away */
  async refuseWhileMoving(): Promise<void> {
    const [state, migrate] = await Promise.all([this.status(), this.client.execute('query-migrate')]);
    const migration = MigrateReply.parse(migrate).status ?? 'none';
    if (!MOVING.has(state) && !MIGRATING.has(migration)) return;
    throw new QmpvaultError(
      'vm-state',
      `the VM ${this.name ?? this.socket} is in state '${state}' (migration: ${migration}); back it up where it runs, once that is over`,
      { details: { socket: this.socket, state, migration } },
    );
  }

  /**
   * Why its disks cannot be read through a snapshot; null: they can.
   *
   * The second reason is a defect, which no schema shows and only an abort of QEMU would: before 8.0, ending a drain
   * polls without the lock of the node's thread when a driver has a callback for it, as throttle has, and so
   * `blockdev-add` of a filter over a throttle node in an iothread aborts the VM (m on 7.2; not on 10.0 and 11.1).
   */
  async whyNoSnapshot(disks: readonly Disk[]): Promise<string | null> {
    const { copyBeforeWrite, snapshotAccess, cbwErrorPolicy } = await this.capabilities();
    if (!copyBeforeWrite || !snapshotAccess || !cbwErrorPolicy)
      return 'this QEMU has no copy-before-write (7.1)';
    if (this.client.version.major >= 8) return null;
    for (const { throttled, device, name } of disks) {
      if (!throttled || !(await this.#hasIothread(device))) continue;
      return `this QEMU aborts when a filter is added to a throttled disk in an iothread, as ${name} is`;
    }
    return null;
  }

  /**
   * Whether nodes may be put over these disks only while the guest stands still. A defect, too: before 9.0,
   * `blockdev-add` over a node in an iothread waits for the I/O in flight there without holding the thread's lock,
   * and QEMU aborts (m: 7.2 always does; 10.0 and 11.1 do not). After `stop` no I/O is in flight.
   */
  async mustStandStill(disks: readonly Disk[]): Promise<boolean> {
    if (this.client.version.major >= 9) return false;
    for (const { device } of disks) if (await this.#hasIothread(device)) return true;
    return false;
  }

  /**
   * Why a disk's snapshot cannot be read over NBD; null: it can. A defect again: before 9.0 the server's side of a
   * connection ends in the thread of the disk, and the fix of CVE-2024-7409, which distributions put into older
   * versions, asserts that it does not (m: Debian's 7.2.22 aborts with the guest; 10.0 and 11.1 do not).
   */
  async whyNoExport({ device, name }: Disk): Promise<string | null> {
    if (this.client.version.major >= 9 || !(await this.#hasIothread(device))) return null;
    return `this QEMU may abort when a reader of a disk in an iothread leaves its NBD server, and ${name} is in one`;
  }

  /** Asked once: no device changes its thread while it is there. */
  #hasIothread(device: string): Promise<boolean> {
    const known = this.#iothreads.get(device) ?? hasIothread(this.client, device);
    this.#iothreads.set(device, known);
    return known;
  }

  close(): Promise<void> {
    return this.client.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

async function capabilitiesOf(
  client: QmpClient,
  process: Promise<VmProcess>,
  memory: CapabilityMemory | undefined,
  timeoutMs: number,
): Promise<Capabilities> {
  const binary = memory && (await process.catch(() => null))?.binary;
  const name = binary && `${client.version.text}, ${binary}`;
  const known = name && (await memory.recall(name));
  if (isCapabilities(known)) return known;
  const capabilities = await probeCapabilities(client, { timeoutMs });
  if (name) await memory.remember(name, capabilities);
  return capabilities;
}

export async function connectClient(
  path: string,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<QmpClient> {
  try {
    return await QmpClient.connect({
      path,
      connectTimeoutMs: timeoutMs,
      greetingTimeoutMs: timeoutMs,
      ...(signal && { signal }),
    });
  } catch (cause) {
    throw unusable(cause, path, timeoutMs);
  }
}

/** What it means that a socket could not be used, from the connection to the first replies. */
function unusable(cause: unknown, path: string, timeoutMs: number): unknown {
  const details = { socket: path };
  switch (cause instanceof QmpError ? cause.code : cause instanceof z.ZodError) {
    // Greeted or not: it accepts connections and then says no more.
    case 'qmp-no-greeting':
    case 'qmp-timeout':
      return new QmpvaultError(
        'vm-busy',
        `${path} accepts the connection but does not answer within ${timeoutMs} ms: either another QMP client holds it (give qmpvault a -qmp socket of its own), or this QEMU hangs`,
        { details, cause },
      );
    case 'qmp-connect':
      return new QmpvaultError(
        'vm-unreachable',
        `nothing answers on ${path}: is the VM running, and is this its QMP socket?`,
        { details, cause },
      );
    case 'qmp-closed':
    case 'qmp-outcome-unknown':
      return new QmpvaultError(
        'vm-unreachable',
        `${path} closed the connection before it said who it is: is the VM just ending?`,
        { details, cause },
      );
    case true:
      return new QmpError('qmp-protocol', `what answers on ${path} does not answer as QEMU does`, {
        details,
        cause,
      });
    default:
      return cause;
  }
}
