/**
 * A run of one of QEMU's tools, in a session of its own: a terminal's Ctrl-C reaches only us, and we decide in which
 * order things end. What it says is bounded, and how it ended is an answer, not an exception.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { bounded } from '../base/deadline.ts';
import { messageOf, QmpvaultError } from '../base/errors.ts';

const OUTPUT_MAX_CHARACTERS = 4 * 1024 ** 2;
/** How long a killed tool may take to go before it is left behind. */
const DEATH_MS = 1_000;

export interface ToolEnd {
  /** null: a signal ended it, or it could not be started, or it said too much. */
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Its own words where it has some: of one that failed. */
  readonly reason: string;
}

export interface ToolProcess {
  readonly child: ChildProcess;
  /** Never rejects. */
  readonly ended: Promise<ToolEnd>;
}

interface ToolOptions {
  readonly outputMaxCharacters?: number;
  readonly onStdout?: (text: string) => void;
}

/** Started so that it is killed when we die (setpriv of util-linux). @throws image-tool-failed */
export function startMortal(command: readonly string[], options?: ToolOptions): ToolProcess {
  return startTool(['setpriv', '--pdeathsig', 'KILL', ...command], options);
}

/** @throws image-tool-failed when nothing can be started at all, as with arguments that are too long */
export function startTool(
  [program = '', ...args]: readonly string[],
  { outputMaxCharacters = OUTPUT_MAX_CHARACTERS, onStdout }: ToolOptions = {},
): ToolProcess {
  let child: ReturnType<typeof spawnTool>;
  try {
    child = spawnTool(program, args);
  } catch (cause) {
    throw new QmpvaultError('image-tool-failed', `cannot start ${program}: ${messageOf(cause)}`, { cause });
  }
  let failure = '';
  child.on('error', (error) => {
    // Not of a signal that could not be sent.
    if (child.pid === undefined) failure = messageOf(error);
  });
  const collect = (stream: Readable, onText?: (text: string) => void) => {
    const texts: string[] = [];
    let left = outputMaxCharacters;
    stream.setEncoding('utf8').on('data', (text: string) => {
      onText?.(text);
      if (left >= text.length) texts.push(text);
      else {
        failure = `it said more than ${outputMaxCharacters} characters`;
        child.kill('SIGKILL');
      }
      left -= text.length;
    });
    return () => texts.join('');
  };
  const stdout = collect(child.stdout, onStdout);
  const stderr = collect(child.stderr);
  const { promise: ended, resolve } = Promise.withResolvers<ToolEnd>();
  child.on('close', (code, signal) => {
    const words = stderr().trim();
    const how = signal === null ? `exit code ${code}` : `ended by ${signal}`;
    resolve({
      exitCode: failure === '' ? code : null,
      signal,
      stdout: stdout(),
      stderr: words,
      reason: words || failure || how,
    });
  });
  return { child, ended };
}

/** Kills it, and leaves it behind when it hangs in the kernel. @returns its end; null of one that was left behind */
export async function endTool({ child, ended }: ToolProcess): Promise<ToolEnd | null> {
  child.kill('SIGKILL');
  return bounded(ended, { timeoutMs: DEATH_MS, what: 'its end' }).catch(() => {
    child.unref();
    child.stdout?.destroy();
    child.stderr?.destroy();
    return null;
  });
}

function spawnTool(program: string, args: readonly string[]) {
  return spawn(program, args, {
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, LC_ALL: 'C' },
  });
}
