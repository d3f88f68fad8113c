/** One running QEMU: its pid, its output, its end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

export interface ProcessOptions {
  readonly program: string;
  readonly args: readonly string[];
  /** receives stdout and stderr, appended */
  readonly logFile: string;
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
}

export class QemuProcess {
  readonly pid: number;
  /** Resolves with how it ended: `exit 0`, `SIGKILL`. */
  readonly exited: Promise<string>;
  readonly #logFile: string;
  #ended = false;
  #logRead: number;

  private constructor(child: ChildProcess, pid: number, logFile: string) {
    this.pid = pid;
    this.#logFile = logFile;
    this.#logRead = readFileSync(logFile).length;
    this.exited = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        this.#ended = true;
        resolve(signal ?? `exit ${code}`);
      });
    });
  }

  /** Starts it in a session of its own, so that a terminal's Ctrl-C does not reach it. */
  static start({ program, args, logFile, uid, gid }: ProcessOptions): QemuProcess {
    const output = openSync(logFile, 'a');
    try {
      const child = spawn(program, args, {
        detached: true,
        stdio: ['ignore', output, output],
        ...(uid !== undefined && { uid }),
        ...(gid !== undefined && { gid }),
      });
      child.unref();
      return new QemuProcess(child, child.pid ?? -1, logFile);
    } finally {
      closeSync(output);
    }
  }

  get isAlive(): boolean {
    return !this.#ended;
  }

  signal(signal: NodeJS.Signals): void {
    if (this.isAlive) process.kill(this.pid, signal);
  }

  /** What it printed since the last call. */
  newOutput(): string {
    const file = openSync(this.#logFile, 'r');
    try {
      const chunk = Buffer.alloc(64 * 1024);
      let text = '';
      for (let n = -1; n !== 0; ) {
        n = readSync(file, chunk, 0, chunk.length, this.#logRead);
        this.#logRead += n;
        text += chunk.toString('utf8', 0, n);
      }
      return text;
    } finally {
      closeSync(file);
    }
  }
}
