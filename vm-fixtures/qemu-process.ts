/** One running QEMU: its pid, its output, its end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';

export interface ProcessOptions {
  readonly program: string;
  readonly args: readonly string[];
  /** receives `qemu.out` and `qemu.log` (stderr), appended */
  readonly dir: string;
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
}

export class QemuProcess {
  readonly pid: number;
  /** Resolves with how it ended: `exit 0`, `SIGKILL`, or why it did not start. */
  readonly exited: Promise<string>;
  /** What `qemu-io` says of a guest's reads and writes. */
  readonly stdout: Tail;
  /** What QEMU says of itself, and of a command that `qemu-io` does not know. */
  readonly stderr: Tail;
  #ended = false;

  private constructor(child: ChildProcess, stdout: Tail, stderr: Tail) {
    this.pid = child.pid ?? -1;
    this.stdout = stdout;
    this.stderr = stderr;
    this.exited = new Promise((resolve) => {
      const end = (how: string) => {
        this.#ended = true;
        resolve(how);
      };
      child.once('exit', (code, signal) => end(signal ?? `exit ${code}`));
      child.once('error', (error) => end(error.message)); // the program could not be executed
    });
  }

  /** Starts it in a session of its own, so that a terminal's Ctrl-C does not reach it. */
  static start({ program, args, dir, uid, gid }: ProcessOptions): QemuProcess {
    const [outFile, errFile] = [join(dir, 'qemu.out'), join(dir, 'qemu.log')];
    const [out, err] = [openSync(outFile, 'a'), openSync(errFile, 'a')];
    try {
      const tails = [new Tail(outFile), new Tail(errFile)] as const;
      const child = spawn(program, args, {
        detached: true,
        stdio: ['ignore', out, err],
        ...(uid !== undefined && { uid }),
        ...(gid !== undefined && { gid }),
      });
      child.unref();
      return new QemuProcess(child, ...tails);
    } finally {
      closeSync(out);
      closeSync(err);
    }
  }

  get isAlive(): boolean {
    return !this.#ended;
  }

  signal(signal: NodeJS.Signals): void {
    if (this.isAlive) process.kill(this.pid, signal);
  }
}

/** Reads what is appended to a file. */
export class Tail {
  readonly #file: string;
  #offset: number;

  constructor(file: string) {
    this.#file = file;
    this.#offset = statSync(file).size;
  }

  /** What came since the last call. */
  read(): string {
    const length = statSync(this.#file).size - this.#offset;
    const text = Buffer.alloc(length);
    const file = openSync(this.#file, 'r');
    try {
      this.#offset += readSync(file, text, 0, length, this.#offset);
    } finally {
      closeSync(file);
    }
    return text.toString();
  }
}
