/**
 * An orchestrator as scripts/nasbackup meets one: CloudStack's management server, which decides what a backup stands on
 * and keeps accounts of it, and its agent, which runs the script and reads its stdout. Written from what those do, with
 * none of our code in between.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { execa } from 'execa';
import type { FixtureVm } from '../../vm-fixtures/guestless.ts';
import { type DaemonWishes, startDaemon, type TestDaemon } from './daemon.ts';
import { NASBACKUP } from './programs.ts';
import { type Teardown, tempDir } from './temp-dir.ts';

/** Where the NAS is, as a backup repository of the orchestrator names it. */
export interface Nas {
  readonly type: string;
  readonly address: string;
  readonly options: string;
}

/** A folder of this host, mounted with the real mount(8) as it would mount a NAS. */
export const boundTo = (dir: string): Nas => ({ type: 'none', address: dir, options: 'bind' });
export const folderAt = (dir: string): Nas => ({ type: 'path', address: dir, options: '' });

export interface Outcome {
  readonly exitCode: number | null;
  readonly stdout: string;
}

/** What its database has of a backup. */
export interface Backup {
  readonly path: string;
  readonly type: 'FULL' | 'INCREMENTAL';
  readonly sizeBytes: number;
  readonly bitmap: string;
  readonly position: number;
  /** File names of the volumes, in the order of the devices. */
  readonly volumes: readonly string[];
}

export class Orchestrator {
  readonly dir: string;
  readonly env: Record<string, string>;
  readonly backups: Backup[] = [];
  nas: Nas;
  /** A command that runs the script, such as nsenter. */
  readonly #through: readonly string[];
  fullEvery = 10;
  #clock = Date.UTC(2026, 10, 20, 2, 0, 0);

  constructor(
    t: Teardown,
    {
      nas,
      bin,
      env = {},
      through = [],
    }: { nas?: Nas; bin?: string; env?: Record<string, string>; through?: readonly string[] } = {},
  ) {
    this.dir = tempDir(t);
    this.#through = through;
    this.nas = nas ?? folderAt(this.dir);
    this.env = {
      QMPVAULT_STATE_DIR: join(this.dir, 'state'),
      QMPVAULT_RUNTIME_DIR: join(this.dir, 'run'),
      QMPVAULT_SCRATCH_DIR: join(this.dir, 'scratch'),
      QMPVAULT_NAS_LOG: join(this.dir, 'log'),
      QMPVAULT_CONFIG: join(this.dir, 'config.yaml'),
      ...(bin && { QMPVAULT_QEMU_BIN: bin }),
      ...env,
    };
  }

  /** stdin stays open and stderr is a pipe that nobody reads, as the agent has them. */
  start(
    args: readonly string[],
    env: Record<string, string> = {},
  ): ChildProcess & { result: Promise<Outcome> } {
    const [program = NASBACKUP, ...words] = [...this.#through, NASBACKUP, ...args];
    const child = spawn(program, words, {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...this.env, ...env },
    });
    const ended = once(child, 'exit');
    const result = Promise.all([text(child.stdout), ended]).then(([stdout, [exitCode]]) => {
      child.stdin.destroy();
      child.stderr.destroy();
      return { stdout, exitCode: exitCode as number | null };
    });
    result.catch(() => {});
    return Object.assign(child, { result });
  }

  run(args: readonly string[], env: Record<string, string> = {}): Promise<Outcome> {
    return this.start(args, env).result;
  }

  /** From now on the daemon of this host is asked: its configuration is where the script looks for it. */
  startDaemon(t: Teardown, wishes: DaemonWishes = {}): Promise<TestDaemon> {
    const { QMPVAULT_STATE_DIR = '', QMPVAULT_RUNTIME_DIR = '', QMPVAULT_SCRATCH_DIR = '' } = this.env;
    const engine = {
      stateDir: QMPVAULT_STATE_DIR,
      runtimeDir: QMPVAULT_RUNTIME_DIR,
      scratchDir: QMPVAULT_SCRATCH_DIR,
    };
    const site = { dir: this.dir, vault: { path: join(this.dir, 'its-own-vault') }, engine };
    return startDaemon(t, site, { ...wishes, env: { ...this.env, ...wishes.env } });
  }

  where(): string[] {
    const { type, address, options } = this.nas;
    return ['-t', type, '-s', address, '-m', options];
  }

  newPath(instance: string): string {
    this.#clock += 61_000;
    const [date, time] = new Date(this.#clock).toISOString().slice(0, 19).split('T');
    return `${instance}/${date?.replaceAll('-', '.')}.${time?.replaceAll(':', '.')}`;
  }

  /** The arguments of the next backup, decided as the management server decides it. */
  decide(instance: string, vm: FixtureVm, { stopped = false, quiesce = false, full = false } = {}) {
    const path = this.newPath(instance);
    const bitmap = `backup-${Math.floor(this.#clock / 1000)}`;
    const last = this.backups.at(-1);
    const isFull = full || last === undefined || this.fullEvery <= 1 || last.position + 1 >= this.fullEvery;
    const disks = vm.disks.filter(({ attach }) => attach !== 'cdrom');
    const args = ['-o', 'backup', '-v', instance, ...this.where(), '-p', path, '-q', `${quiesce}`];
    args.push(
      '-d',
      stopped ? disks.map(({ image }) => image).join(',') : '',
      '-M',
      isFull ? 'full' : 'incremental',
    );
    args.push('--bitmap-new', bitmap);
    if (last !== undefined && !isFull) {
      args.push('--bitmap-parent', last.bitmap);
      args.push('--parent-paths', last.volumes.map((file) => `${last.path}/${file}`).join(','));
    }
    const volumes = disks.map(({ image }, i) => `${i === 0 ? 'root' : 'datadisk'}.${basename(image)}.qcow2`);
    const position = isFull ? 0 : last.position + 1;
    return {
      args,
      path,
      bitmap,
      volumes,
      position,
      hasDisks: stopped,
      asked: isFull ? 'FULL' : 'INCREMENTAL',
    } as const;
  }

  /** Takes a backup and enters it into its database. @throws what the agent would report */
  async backUp(
    instance: string,
    vm: FixtureVm,
    how: { stopped?: boolean; quiesce?: boolean; full?: boolean } = {},
  ) {
    const { args, asked, hasDisks, position, ...rest } = this.decide(instance, vm, how);
    const outcome = await this.run(args);
    if (outcome.exitCode !== 0) throw new Error(`${outcome.exitCode}: ${outcome.stdout}${await this.log()}`);
    const { sizeBytes, fellBack } = parseBackup(outcome.stdout, hasDisks);
    const type = fellBack ? 'FULL' : asked;
    const backup: Backup = { ...rest, type, sizeBytes, position: fellBack ? 0 : position };
    this.backups.push(backup);
    return backup;
  }

  delete(path: string): Promise<Outcome> {
    return this.run(['-o', 'delete', ...this.where(), '-p', path]);
  }

  log(): Promise<string> {
    return readFile(join(this.dir, 'log'), 'utf8').catch(() => '');
  }

  /** As its restore does: a file with a backing file is flattened, any other is copied as it is. @returns the new volume */
  async restore(nasDir: string, { path }: Backup, file: string, target: string): Promise<string> {
    const source = join(nasDir, path, file);
    await execa('qemu-img', ['check', '-q', source]);
    const { stdout } = await execa('qemu-img', ['info', source]);
    if (stdout.includes('backing file:')) await execa('qemu-img', ['convert', '-O', 'qcow2', source, target]);
    else await copyFile(source, target);
    return target;
  }
}

/**
 * The size, as the agents read it. The older ones take the last line of a running VM; where disks were named they add up
 * the first word of every line. The younger ones do the same after they took the marker out; both have to agree.
 */
export function parseBackup(stdout: string, hasDisks: boolean): { sizeBytes: number; fellBack: boolean } {
  const fellBack = stdout.includes('INCREMENTAL_FALLBACK=true');
  const lines = stdout.trim().split('\n');
  const unmarked = lines.filter((line) => !line.includes('INCREMENTAL_FALLBACK=true'));
  const strict = fellBack ? long(lines.at(-1) ?? '') : sizeOf(lines, hasDisks);
  const later = sizeOf(unmarked, hasDisks);
  if (strict !== later) throw new Error(`read as ${strict} and as ${later}: ${stdout}`);
  return { sizeBytes: later, fellBack };
}

function sizeOf(lines: readonly string[], hasDisks: boolean): number {
  if (!hasDisks) return long(lines.at(-1)?.trim() ?? '');
  return lines.reduce((sum, line) => sum + long(line.split(' ')[0]?.trim() ?? ''), 0);
}

/** Java's Long.parseLong. */
function long(word: string): number {
  if (!/^[+-]?\d+$/.test(word)) throw new Error(`NumberFormatException: For input string: "${word}"`);
  return Number(word);
}

/** The size of the repository and what is used, in bytes. */
export function parseStats(stdout: string): { totalBytes: number; usedBytes: number } {
  const words = stdout.split(/\s+/);
  return { totalBytes: long(words[1] ?? '') * 1024, usedBytes: long(words[2] ?? '') * 1024 };
}
