/**
 * The VMs that the daemon knows: configured, added over RPC, or found by their sockets. A configured one comes before an
 * added one, and that before one that was found. Sockets come and go; a VM that is known stays known.
 */
import { glob, mkdir, readFile, stat } from 'node:fs/promises';
import { basename, join, matchesGlob } from 'node:path';
import { z } from 'zod';
import { codeOf, errnoOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { type VmName, vmName } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import { type Config, type VmConfig, vmConfig } from '../config/config.ts';
import { type VmWish, vmSchema } from '../config/schema.ts';
import { writeFileDurably } from '../vault/durable.ts';
import { identify, type VmIdentity } from '../vm/identity.ts';
import { listeningAmong } from '../vm/vm-process.ts';

export type VmSource = 'configured' | 'added' | 'discovered';

export interface KnownVm extends VmConfig {
  readonly source: VmSource;
  /** null where it was never asked for. */
  readonly uuid: string | null;
}

export interface VmsOptions {
  readonly stateDir: string;
  readonly log: Log;
  readonly identify?: typeof identify;
}

interface Found {
  readonly identity: VmIdentity;
  readonly socket: string;
}

/** Who was found, so that one that stopped is not forgotten with the daemon. */
const foundSchema = z.object({
  format: z.literal(1),
  vms: z.array(
    z.object({
      key: z.string(),
      socket: z.string(),
      identity: z.object({ name: z.string().nullable(), uuid: z.string() }),
    }),
  ),
});
const addedSchema = z.object({ format: z.literal(1), vms: z.record(z.string(), z.unknown()) });

export class Vms {
  readonly #file: string;
  readonly #foundFile: string;
  readonly #log: Log;
  readonly #identify: typeof identify;
  #config: Config;
  #list: readonly KnownVm[] | null = null;
  /** As they were given; what a schema makes of them could not be read again. */
  readonly #added = new Map<VmName, { readonly given: unknown; readonly wish: VmWish }>();
  /** By socket and inode: another process behind the same path is another VM. */
  readonly #found = new Map<string, Found>();

  private constructor(config: Config, options: VmsOptions) {
    this.#config = config;
    this.#file = join(options.stateDir, 'daemon', 'vms.json');
    this.#foundFile = join(options.stateDir, 'daemon', 'found.json');
    this.#log = options.log;
    this.#identify = options.identify ?? identify;
  }

  /** With those that were added or found before. @throws internal when their file makes no sense */
  static async open(config: Config, options: VmsOptions): Promise<Vms> {
    const vms = new Vms(config, options);
    await vms.#readAdded();
    await vms.#readFound();
    return vms;
  }

  configure(config: Config): void {
    this.#config = config;
    this.#list = null;
  }

  /** Sorted by name. Asked for each queued run, so it is made only when something has changed. */
  list(): readonly KnownVm[] {
    this.#list ??= this.#makeList();
    return this.#list;
  }

  #makeList(): KnownVm[] {
    const known = new Map<string, KnownVm>();
    const sockets = new Set<string>();
    const add = (vm: VmConfig, source: VmSource, uuid: string | null) => {
      if (known.has(vm.name) || (vm.qmp !== null && sockets.has(vm.qmp))) return;
      known.set(vm.name, { ...vm, source, uuid });
      if (vm.qmp !== null) sockets.add(vm.qmp);
    };
    for (const vm of this.#config.vms) add(vm, 'configured', null);
    for (const [name, { wish }] of this.#added)
      add(vmConfig(this.#config.defaults, name, wish), 'added', null);
    for (const { identity, socket } of this.#found.values()) {
      const name = identity.name ?? basename(socket).replace(/\.(qmp|sock|socket)$/, '');
      const wish = vmSchema.parse({ qmp: socket });
      add(vmConfig(this.#config.defaults, name, wish), 'discovered', identity.uuid);
    }
    return [...known.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** @throws vm-unknown */
  get(name: string): KnownVm {
    const vm = this.list().find((vm) => vm.name === name);
    if (vm !== undefined) return vm;
    throw new QmpvaultError(
      'vm-unknown',
      `the daemon knows no VM ${name}: configure it, add it with vm.add, or let it be discovered`,
      { details: { vm: name } },
    );
  }

  /** Those that somebody listens for. Connects to none. */
  async running(): Promise<Set<VmName>> {
    const vms = this.list();
    const listening = await listeningAmong(vms.flatMap(({ qmp }) => qmp ?? []));
    return new Set(vms.filter(({ qmp }) => qmp !== null && listening.has(qmp)).map(({ name }) => name));
  }

  /** Durable when it returns. @throws usage for one that is configured or makes no sense, name-invalid */
  async add(name: string, wish: unknown): Promise<KnownVm> {
    const checked = vmName(name);
    if (this.#config.vms.some((vm) => vm.name === checked)) {
      throw new QmpvaultError('usage', `${name} is in the configuration: change it there`, {
        details: { vm: name },
      });
    }
    this.#list = null;
    this.#added.set(checked, { given: wish, wish: parseWish(name, wish) });
    await this.#writeAdded();
    return this.get(checked);
  }

  /**
   * Forgets one that was added, or was found and does not run here any more; its points stay.
   * @throws vm-unknown, usage for any other
   */
  async remove(name: string): Promise<void> {
    const { source, qmp } = this.get(name);
    if (source === 'added') {
      this.#added.delete(name as VmName);
      this.#list = null;
      return this.#writeAdded();
    }
    const isGone = source === 'discovered' && !(await this.running()).has(name as VmName);
    if (!isGone) {
      throw new QmpvaultError(
        'usage',
        source === 'discovered'
          ? `${name} runs and would be found again: take its socket out of what 'discover' of the configuration names`
          : `${name} was not added but ${source}: take it out of the configuration`,
        { details: { vm: name, source } },
      );
    }
    for (const [key, { socket }] of this.#found) if (socket === qmp) this.#found.delete(key);
    this.#list = null;
    await this.#writeFound();
  }

  /** Looks for sockets that have come or gone, and asks the new ones who they are. Never throws. */
  async discover(signal?: AbortSignal): Promise<void> {
    const before = [...this.#found.keys()].join();
    const present = new Set<string>();
    const known = new Set([
      ...this.#config.vms.map(({ qmp }) => qmp),
      ...[...this.#added.values()].map(({ wish }) => wish.qmp),
    ]);
    for await (const socket of glob([...this.#config.discover])) {
      const info = await stat(socket).catch(() => null);
      if (!info?.isSocket() || known.has(socket)) continue;
      const key = `${socket}\0${info.ino}\0${info.ctimeMs}`;
      present.add(key);
      if (!this.#found.has(key)) await this.#ask(socket, key, signal);
    }
    // What has gone is a VM that stopped, unless its socket is somebody else's now.
    for (const [key, { socket }] of this.#found) {
      if (present.has(key)) continue;
      if ([...present].some((other) => other.startsWith(`${socket}\0`))) {
        this.#found.delete(key);
        this.#list = null;
      }
    }
    if ([...this.#found.keys()].join() !== before) await this.#writeFound();
  }

  async #ask(socket: string, key: string, signal: AbortSignal | undefined): Promise<void> {
    try {
      const identity = await this.#identify(socket, { signal });
      vmName(identity.name ?? basename(socket));
      this.#found.set(key, { identity, socket });
      this.#list = null;
      this.#log.info({ socket, vm: identity.name, uuid: identity.uuid }, 'a VM was discovered');
    } catch (error) {
      // Asked again at the next look: it may be starting, or somebody else may hold it for a while.
      this.#log.debug({ socket, code: codeOf(error) }, messageOf(error));
    }
  }

  async #readAdded(): Promise<void> {
    let text: string;
    try {
      text = await readFile(this.#file, 'utf8');
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return;
      throw error;
    }
    try {
      for (const [name, wish] of Object.entries(addedSchema.parse(JSON.parse(text)).vms)) {
        this.#added.set(vmName(name), { given: wish, wish: parseWish(name, wish) });
      }
    } catch (cause) {
      throw new QmpvaultError('internal', `${this.#file} cannot be read: mend or remove it`, { cause });
    }
  }

  /** What cannot be read is found again as long as it runs. */
  async #readFound(): Promise<void> {
    const text = await readFile(this.#foundFile, 'utf8').catch(() => null);
    if (text === null) return;
    try {
      for (const { key, ...found } of foundSchema.parse(JSON.parse(text)).vms) {
        const { discover } = this.#config;
        if (discover.some((pattern) => matchesGlob(found.socket, pattern))) this.#found.set(key, found);
      }
    } catch (error) {
      this.#log.warn({ file: this.#foundFile }, `the VMs that were found are forgotten: ${messageOf(error)}`);
    }
  }

  /** Never throws: it is written again with the next change. */
  async #writeFound(): Promise<void> {
    const record = { format: 1, vms: [...this.#found].map(([key, found]) => ({ key, ...found })) };
    try {
      await mkdir(join(this.#foundFile, '..'), { recursive: true, mode: 0o700 });
      await writeFileDurably(this.#foundFile, `${JSON.stringify(record, null, 2)}\n`);
    } catch (error) {
      this.#log.warn({ file: this.#foundFile, code: codeOf(error) }, messageOf(error));
    }
  }

  async #writeAdded(): Promise<void> {
    await mkdir(join(this.#file, '..'), { recursive: true, mode: 0o700 });
    const vms = [...this.#added].map(([name, { given }]) => [name, given]);
    const record = { format: 1, vms: Object.fromEntries(vms) };
    await writeFileDurably(this.#file, `${JSON.stringify(record, null, 2)}\n`);
  }
}

function parseWish(name: string, wish: unknown): VmWish {
  const parsed = vmSchema.safeParse(wish);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(
    ({ path, message }) => `${path.join('.') || name}: ${message.replace('\n', '; allowed: ')}`,
  );
  throw new QmpvaultError('usage', problems.join('; '), { details: { problems } });
}
