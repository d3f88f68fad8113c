/**
 * A command of the system or of the operator: mount, a hook. It has a deadline, and whoever waits for it never waits longer:
 * with all that it started it is killed, and left behind if it hangs in the kernel and cannot die.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { bounded } from '../base/deadline.ts';
import { messageOf } from '../base/errors.ts';

/** After its deadline; and for what it started and left with its output open. */
const DEATH_MS = 1_000;
const OUTPUT_MAX = 16 * 1024;

export interface CommandResult {
  /** null: it could not be started, or was ended by a signal. */
  readonly exitCode: number | null;
  /** The end of what it wrote to stdout and stderr; why it could not be started. */
  readonly output: string;
  /** It reached its deadline. */
  readonly timedOut: boolean;
  /** Resolves when the process has gone; of one that was left behind, whenever that may be. */
  readonly gone: Promise<void>;
}

export interface CommandOptions {
  readonly timeoutMs: number;
  /** Beside our own. */
  readonly env?: NodeJS.ProcessEnv;
  /** For its stdin. */
  readonly input?: string;
}

/** Never rejects. */
export async function runCommand(
  [program, ...args]: readonly [string, ...string[]],
  { timeoutMs, env = {}, input = '' }: CommandOptions,
): Promise<CommandResult> {
  let child: ChildProcessByStdio<Writable, Readable, Readable>;
  try {
    child = start(program, args, env);
  } catch (error) {
    // Before there is a process: an argument that is too long, no descriptor left.
    return { exitCode: null, output: messageOf(error), timedOut: false, gone: Promise.resolve() };
  }
  const output = new Tail(child.stdout, child.stderr);
  // It need not read it.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  let notStarted = '';
  const { promise: gone, resolve: hasGone } = Promise.withResolvers<void>();
  const { promise: closed, resolve: hasClosed } = Promise.withResolvers<void>();
  child.on('error', (error) => {
    notStarted = messageOf(error);
    hasGone();
  });
  child.on('exit', () => hasGone());
  child.on('close', () => hasClosed());
  try {
    await bounded(gone, { timeoutMs, what: program });
    await bounded(closed, { timeoutMs: DEATH_MS, what: 'its output' }).catch(() => {});
    const isStarted = notStarted === '';
    return {
      exitCode: isStarted ? child.exitCode : null,
      output: isStarted ? output.text() : notStarted,
      timedOut: false,
      gone,
    };
  } catch {
    if (child.pid !== undefined) killGroup(child.pid);
    await bounded(gone, { timeoutMs: DEATH_MS, what: 'its end' }).catch(() => {});
    return { exitCode: null, output: output.text(), timedOut: true, gone };
  } finally {
    child.unref();
    for (const stream of [child.stdin, child.stdout, child.stderr]) stream.destroy();
  }
}

function start(program: string, args: readonly string[], env: NodeJS.ProcessEnv) {
  return spawn(program, args, {
    // The leader of a group, so that what it started can be killed with it.
    detached: true,
    cwd: '/',
    env: { ...process.env, NODE_OPTIONS: '', LC_ALL: 'C', ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
}

function killGroup(leader: number): void {
  try {
    process.kill(-leader, 'SIGKILL');
  } catch {
    // It has gone in this instant.
  }
}

class Tail {
  #text = '';

  constructor(...streams: readonly Readable[]) {
    for (const stream of streams) {
      stream.setEncoding('utf8');
      stream.on('error', () => {});
      stream.on('data', (text: string) => {
        this.#text = (this.#text + text).slice(-OUTPUT_MAX);
      });
    }
  }

  text(): string {
    return this.#text.trim();
  }
}
