/**
 * The guard of a pause. An engine that dies between `stop` and `cont`, or between freeze and thaw, would leave the
 * guest standing still (m: also when both are sent at once). So a small process, detached and started before, holds
 * the other end of a pipe: if that ends while a pause is announced, or the pause lasts longer than the limit, it
 * makes the guest go on. It inherits duplicates of the engine's connections, since a QMP chardev serves one client.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { bounded } from '../base/deadline.ts';
import { messageOf, QmpvaultError } from '../base/errors.ts';

type GuardProcess = ChildProcessByStdio<Writable, Readable, null>;

/** Beside this file, as source in a checkout and compiled in a package. */
const ENTRY = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './guard-main.ts' : './guard-main.js', import.meta.url),
);
/** guard-main.ts: it had to act. */
const ACTED = 3;
const START_MS = 10_000;
const LIMIT_MS = 10_000;
const ANSWER_MS = 2_000;
/** It still has a guest to wake when it is let go while armed. */
const END_ARMED_MS = 10_000;

export interface GuardOptions {
  /** A connection after its capabilities negotiation. */
  readonly qmp: Socket;
  readonly agent?: Socket | undefined;
  /** Where they lead to, for when one is cut while the engine lives. */
  readonly qmpPath?: string | undefined;
  readonly agentPath?: string | undefined;
  /** From the first announcement until all is called off again. */
  readonly limitMs?: number;
}

export class Guard {
  readonly #process: GuardProcess;
  readonly #exited: Promise<number | null>;
  readonly #answers: AsyncIterator<string>;
  readonly #limitMs: number;
  readonly #dangers = new Set<'paused' | 'frozen'>();
  #ending: Promise<void> | undefined;

  private constructor(process: GuardProcess, limitMs: number) {
    this.#process = process;
    this.#limitMs = limitMs;
    this.#exited = once(process, 'exit').then(([code]) => code);
    this.#answers = createInterface({ input: process.stdout })[Symbol.asyncIterator]();
    process.stdin.on('error', () => {}); // EPIPE: it has gone; the answer that does not come tells
  }

  /** Resolves when the guard is there; takes as long as Node takes to start. @throws guard-failed */
  static async start(options: GuardOptions): Promise<Guard> {
    const { limitMs = LIMIT_MS } = options;
    const child = await startProcess(options, limitMs);
    const guard = new Guard(child, limitMs);
    try {
      await guard.#hear('ready', START_MS);
      return guard;
    } catch (error) {
      child.kill('SIGKILL');
      throw error;
    }
  }

  /** Before `stop`: await it, and do not stop the VM if it throws. @throws guard-failed */
  async pausing(): Promise<void> {
    this.#dangers.add('paused');
    await this.#tell('pausing');
  }

  /** After `cont` has returned. @throws guard-failed, also when the guard had to act: the pause was not ours alone */
  async resumed(): Promise<void> {
    this.#dangers.delete('paused');
    await this.#tell('resumed');
  }

  /** Before the freeze: await it, and do not freeze if it throws. @throws guard-failed */
  async freezing(): Promise<void> {
    this.#dangers.add('frozen');
    await this.#tell('freezing');
  }

  /** After the thaw has returned. @throws guard-failed, also when the guard had to act */
  async thawed(): Promise<void> {
    this.#dangers.delete('frozen');
    await this.#tell('thawed');
  }

  /**
   * Ends the guard and with it the duplicates of the connections. If something is still announced it first makes
   * the guest go on. Idempotent; never throws.
   */
  end(): Promise<void> {
    this.#ending ??= this.#end();
    return this.#ending;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.end();
  }

  async #end(): Promise<void> {
    const armed = this.#dangers.size > 0;
    this.#process.stdin.end();
    try {
      await bounded(this.#exited, {
        timeoutMs: armed ? END_ARMED_MS : ANSWER_MS,
        what: 'the end of the guard',
      });
    } catch {
      // With a guest to wake it is left to that, for as long as it takes.
      if (armed) this.#process.unref();
      else this.#process.kill('SIGKILL');
    }
    this.#process.stdout.destroy();
  }

  async #tell(line: string): Promise<void> {
    this.#process.stdin.write(`${line}\n`);
    await this.#hear(line, ANSWER_MS);
  }

  async #hear(line: string, timeoutMs: number): Promise<void> {
    const what = `the guard (pid ${this.#process.pid}) to answer '${line}'`;
    const answer = await bounded(this.#answers.next(), { timeoutMs, what, code: 'guard-failed' });
    if (answer.value === line) return;
    const code = answer.done
      ? await bounded(this.#exited, { timeoutMs, what, code: 'guard-failed' })
      : undefined;
    const acted = code === ACTED;
    const message = acted
      ? `a pause was not over after ${this.#limitMs} ms: the guard has made the guest go on`
      : `the guard (pid ${this.#process.pid}) did not answer '${line}'; it ended with exit code ${code}`;
    throw new QmpvaultError('guard-failed', message, { details: { acted, exitCode: code ?? null } });
  }
}

async function startProcess(
  { qmp, agent, qmpPath = '', agentPath = '' }: GuardOptions,
  limitMs: number,
): Promise<GuardProcess> {
  const args = [ENTRY, String(limitMs), agent === undefined ? '' : 'agent', qmpPath, agentPath];
  const agentFd = agent === undefined ? 'ignore' : descriptorOf(agent);
  try {
    const child = spawn(process.execPath, args, {
      detached: true,
      cwd: '/',
      // Options meant for us would only slow it down, or hinder it.
      env: { ...process.env, NODE_OPTIONS: '' },
      stdio: ['pipe', 'pipe', 'ignore', descriptorOf(qmp), agentFd],
    }) as GuardProcess;
    await once(child, 'spawn');
    return child;
  } catch (cause) {
    if (cause instanceof QmpvaultError) throw cause;
    throw new QmpvaultError('guard-failed', `cannot start the guard: ${messageOf(cause)}`, { cause });
  }
}

/** A dup by number. Given the socket itself, Node would stop reading from it here (m: Node 24). */
function descriptorOf(socket: Socket): number {
  const handle = (socket as unknown as { _handle?: { fd?: number } | null })._handle;
  if (handle?.fd !== undefined && handle.fd >= 0) return handle.fd;
  throw new QmpvaultError('guard-failed', 'there is no open connection to guard');
}
