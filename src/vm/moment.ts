/**
 * The moment: the one instant of all disks that a restore point shows. Filters are put between the devices and
 * their nodes while the guest stands still, for a few milliseconds.
 *
 * Whose pause it is: `stop` on a VM that its operator paused succeeds without an event, and a `cont` of ours would
 * resume the operator's VM. So a VM that is not running is neither stopped, resumed nor frozen, and `cont` is sent
 * only if our own `stop` produced the STOP event and the state is still `paused`. Where that cannot be learned any
 * more (the connection is cut, or hangs) it is the guard that looks, and makes a paused guest go on.
 *
 * If this process dies in between, the guest would stay paused or frozen: the guard, a process of its own, is told
 * before each such step and puts it right. src/image starts it; here it is a port.
 */
import { z } from 'zod';
import type { GuestAgent, QmpClient } from '../../qmp/index.ts';
import { messageOf, QmpvaultError } from '../base/errors.ts';
import { noSteps, type ReachStep } from '../base/steps.ts';
import type { NodeName } from './block-graph.ts';

/** Told before the guest is stopped or frozen, and after it runs again. */
export interface GuestGuard {
  pausing(): Promise<void>;
  resumed(): Promise<void>;
  freezing(): Promise<void>;
  thawed(): Promise<void>;
}

export type Quiesce = 'off' | 'auto' | 'required';

export interface MomentDisk {
  readonly device: string;
  readonly root: NodeName;
  readonly filter: NodeName;
}

export interface Moment {
  readonly at: Date;
  readonly freezeMs: number | null;
  readonly pauseMs: number | null;
  /** What was reached, not what was asked for. */
  readonly consistency: 'crash' | 'filesystem';
  readonly warnings: readonly string[];
}

/** What can be added only while the guest stands still: it is added in the moment itself (`Vm.mustStandStill`). */
export interface AtRest {
  /** Adds the filters, before they are put in. */
  readonly before: () => Promise<void>;
  /** Adds what reads through them. */
  readonly after: () => Promise<void>;
}

export interface MomentOptions {
  readonly client: QmpClient;
  readonly guard: GuestGuard | null;
  readonly agent: GuestAgent | null;
  readonly quiesce: Quiesce;
  /** How long the agent may take to freeze; never longer than the guard waits before it thaws. */
  readonly freezeMs?: number | undefined;
  readonly reachStep?: ReachStep;
}

interface InsertOptions extends MomentOptions {
  readonly disks: readonly MomentDisk[];
  readonly atRest: AtRest | null;
}

const FREEZE_MAX_MS = 8_000;
const THAW_TIMEOUT_MS = 10_000;
const STOP_TIMEOUT_MS = 10_000;

/**
 * Puts every disk's filter in at one instant. When it throws, no filter is left in, the guest runs if it ran
 * before, and is thawed.
 * @throws vm-agent when a freeze is required and was not reached; qmp-* errors
 */
export async function takeMoment(options: InsertOptions): Promise<Moment> {
  const { disks, atRest } = options;
  // Several disks have one moment only while nothing writes. One disk needs no pause: a `qom-set` is an instant.
  const pause = disks.length > 1 || atRest !== null;
  const { moment, result } = await takeAt(options, async (running) =>
    running && pause ? await pausedInsert(options) : { at: await insert(options), pauseMs: null },
  );
  return { ...moment, ...result };
}

/**
 * Does something at a moment at which the guest's filesystems are frozen, if that can be had and is wanted.
 * @param instant takes the moment; it is told whether the guest was running
 * @throws vm-agent when a freeze is required and was not reached, and whatever `instant` throws; thawed then
 */
export async function takeAt<T>(
  { client, agent, quiesce, guard, freezeMs: patienceMs, reachStep = noSteps }: MomentOptions,
  instant: (running: boolean) => Promise<T>,
): Promise<{ moment: Moment; result: T }> {
  const running = (await statusOf(client)) === 'running';
  const timeoutMs = Math.min(patienceMs ?? FREEZE_MAX_MS, FREEZE_MAX_MS);
  const freeze =
    running && agent !== null && quiesce !== 'off' ? new Freeze(agent, guard, { quiesce, timeoutMs }) : null;
  if (quiesce === 'required' && freeze === null) {
    const why = running ? 'no guest agent was named' : 'the VM is not running';
    throw new QmpvaultError('vm-agent', `the guest's filesystems cannot be frozen: ${why}`);
  }
  let result: T;
  let at: Date;
  let freezeMs: number | null = null;
  try {
    await freeze?.begin();
    await reachStep('frozen');
    result = await instant(running);
    at = new Date();
  } finally {
    freezeMs = (await freeze?.end()) ?? null;
  }
  const consistency = freezeMs === null ? 'crash' : 'filesystem';
  const warnings = freeze?.warnings ?? [];
  return { moment: { at, freezeMs, pauseMs: null, consistency, warnings }, result };
}

async function pausedInsert(options: InsertOptions): Promise<{ at: Date; pauseMs: number }> {
  const { client, guard, reachStep = noSteps } = options;
  await guard?.pausing();
  const began = performance.now();
  using stops = client.listen((event) => event.name === 'STOP');
  let at: Date;
  let ended = began;
  try {
    await client.execute('stop', {}, { timeoutMs: STOP_TIMEOUT_MS });
    await reachStep('stopped');
    at = await insert(options);
    await reachStep('inserted');
  } finally {
    // Commands are carried out in their order: once this is answered `stop` is over, whether its reply came or not, and
    // its STOP event is here; without one the pause is somebody else's. Unanswered it throws, and the guard stays
    // armed: a `stop` whose connection was cut may have taken effect, or may yet (m: 7.2, in 3 of 27 cuts).
    const status = await statusOf(client, STOP_TIMEOUT_MS);
    const ours = stops.take().length > 0;
    if (ours && status === 'paused') await client.execute('cont', {}, { timeoutMs: STOP_TIMEOUT_MS });
    ended = performance.now();
    // Also after a failure: from here on a pause is not ours, and the guard must not end it.
    await guard?.resumed();
  }
  return { at, pauseMs: ended - began };
}

/** All or none. @returns the moment: when the last of them was in */
async function insert({ client, disks, atRest }: InsertOptions): Promise<Date> {
  const done: MomentDisk[] = [];
  const resumes = client.listen((event) => event.name === 'RESUME');
  try {
    await atRest?.before();
    for (const disk of disks) {
      await setDrive(client, disk.device, disk.filter);
      done.push(disk);
    }
    if (disks.length > 1 && resumes.take().length > 0) {
      throw new QmpvaultError(
        'run-overtaken',
        'somebody resumed the VM while the moment was taken: back up again',
      );
    }
    const at = new Date();
    await atRest?.after();
    return at;
  } catch (error) {
    for (const disk of done) await setDrive(client, disk.device, disk.root);
    throw error;
  } finally {
    resumes.close();
  }
}

export async function setDrive(client: QmpClient, device: string, node: NodeName): Promise<void> {
  await client.execute('qom-set', { path: device, property: 'drive', value: node });
}

/**
 * A freeze that always ends in a thaw, also when the reply to the freeze never came: it may have taken effect.
 */
class Freeze {
  readonly warnings: string[] = [];
  readonly #agent: GuestAgent;
  readonly #guard: GuestGuard | null;
  readonly #quiesce: Quiesce;
  readonly #timeoutMs: number;
  #began: number | null = null;
  #reached = false;

  constructor(
    agent: GuestAgent,
    guard: GuestGuard | null,
    { quiesce, timeoutMs }: { quiesce: Quiesce; timeoutMs: number },
  ) {
    this.#agent = agent;
    this.#guard = guard;
    this.#quiesce = quiesce;
    this.#timeoutMs = timeoutMs;
  }

  async begin(): Promise<void> {
    await this.#guard?.freezing();
    this.#began = performance.now();
    try {
      const filesystems = await this.#agent.freeze({ timeoutMs: this.#timeoutMs });
      this.#reached = filesystems > 0;
      if (!this.#reached) this.#trouble('the guest agent froze no filesystem');
    } catch (cause) {
      if (cause instanceof QmpvaultError) throw cause;
      this.#trouble(`the guest's filesystems were not frozen: ${messageOf(cause)}`, cause);
    }
  }

  /** @returns how long the guest's filesystems surely stood still, in milliseconds; null: not surely */
  async end(): Promise<number | null> {
    if (this.#began === null) return null;
    try {
      await this.#agent.thaw({ timeoutMs: THAW_TIMEOUT_MS });
      // Throws if the guard had to thaw before: then the moment may have come after that.
      await this.#guard?.thawed();
    } catch (cause) {
      this.#reached = false;
      this.warnings.push(
        `the guest agent did not confirm the thaw: ${messageOf(cause)}. The guard process goes on thawing; the moment counts as crash-consistent`,
      );
    }
    return this.#reached ? performance.now() - this.#began : null;
  }

  #trouble(message: string, cause?: unknown): void {
    if (this.#quiesce === 'required') throw new QmpvaultError('vm-agent', message, { cause });
    this.warnings.push(`${message}; the restore point is crash-consistent`);
  }
}

const StatusReply = z.object({ status: z.string() });

async function statusOf(client: QmpClient, timeoutMs = client.patienceMs): Promise<string> {
  return StatusReply.parse(await client.execute('query-status', {}, { timeoutMs })).status;
}
