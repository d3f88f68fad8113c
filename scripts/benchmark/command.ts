/** `qmpvault backup` as its users run it: compiled, a process of its own, timed from outside and by its own manifest. */
import { mkdirSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { KiB } from '../../src/base/units.ts';
import { type FixtureVm, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { PACKAGED, packagedEnv } from './packaged.ts';

const PEAK_MEMORY = fileURLToPath(new URL('./peak-memory.ts', import.meta.url));

export interface Backup {
  /** The whole command, with Node's start and, of a full, with reading it back for its digest. */
  readonly commandMs: number;
  /** From when the engine began until the point was ready to be published. */
  readonly engineMs: number;
  readonly peakMemoryBytes: number;
  readonly storedBytes: number;
}

interface PointJson {
  readonly disks: readonly { readonly storedBytes: number }[];
  readonly timings: { readonly totalMs: number };
}

export class Command {
  readonly #dir: string;
  readonly #bin: string;

  /** @param dir where the vault and the engine's own folders are made */
  constructor(dir: string, qemu: QemuVersion) {
    this.#dir = dir;
    this.#bin = qemuBin(qemu);
    mkdirSync(this.#runtimeDir, { recursive: true });
  }

  /** One backup of a VM that is known by this name. @throws when it fails */
  async backUp(name: string, vm: FixtureVm, { full = false } = {}): Promise<Backup> {
    const began = performance.now();
    const { exitCode, stdout, stderr, stdio } = await this.#start(name, vm, full ? ['--full'] : []);
    const commandMs = performance.now() - began;
    if (exitCode !== 0) throw new Error(`qmpvault backup ended with ${exitCode}: ${stderr}`);
    const { point } = JSON.parse(stdout) as { point: PointJson };
    return {
      commandMs,
      engineMs: point.timings.totalMs,
      peakMemoryBytes: Number(stdio[3]) * KiB,
      storedBytes: point.disks.reduce((sum, disk) => sum + disk.storedBytes, 0),
    };
  }

  /** A full whose NAS hangs: its writer is stopped as soon as it is at work. @returns the exit code */
  async backUpHanging(name: string, vm: FixtureVm): Promise<number | undefined> {
    const jobs = vm.qmp.listen(
      (event) =>
        event.name === 'JOB_STATUS_CHANGE' &&
        /^qv-.*-j0$/.test(String(event.data['id'])) &&
        event.data['status'] === 'running',
    );
    try {
      const command = this.#start(name, vm, ['--full', '--stall-ms', '2000']);
      // Also an end without a job is one: of a command that fails at once nobody waits for the job.
      await Promise.race([jobs.next({ timeoutMs: 30_000 }), command]);
      for (const pid of await this.#writers()) process.kill(pid, 'SIGSTOP');
      return (await command).exitCode;
    } finally {
      jobs.close();
    }
  }

  get #runtimeDir(): string {
    return join(this.#dir, 'run');
  }

  #start(name: string, vm: FixtureVm, options: readonly string[]) {
    const args = [
      '--json',
      '--qemu-bin',
      this.#bin,
      'backup',
      name,
      '--vault',
      join(this.#dir, 'vault'),
      '--init',
    ];
    args.push('--qmp', vm.qmpSocket, '--full-every', '1000', ...options);
    return execa(process.execPath, ['--import', PEAK_MEMORY, ...PACKAGED, ...args], {
      reject: false,
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
      env: {
        ...packagedEnv({ dir: this.#dir }),
        QMPVAULT_STATE_DIR: join(this.#dir, 'state'),
        QMPVAULT_RUNTIME_DIR: this.#runtimeDir,
        QMPVAULT_SCRATCH_DIR: join(this.#dir, 'scratch'),
      },
    });
  }

  async #writers(): Promise<number[]> {
    const folders = await readdir(this.#runtimeDir);
    const pids = folders.map((folder) =>
      readFile(join(this.#runtimeDir, folder, 'pid'), 'latin1').catch(() => ''),
    );
    return (await Promise.all(pids)).filter((pid) => pid !== '').map((pid) => Number(pid.split(' ')[0]));
  }
}
