/**
 * The vaults of the configuration, as the daemon sees them: from a distance. Each is mounted when it is needed and asked
 * through a process that may hang in its place; that a NAS is away is a state here, and no failure of the daemon.
 */
import { codeOf, messageOf, QmpvaultError } from '../base/errors.ts';
import type { Config, VaultConfig } from '../config/config.ts';
import type { OperationName, Params, Result } from '../operations/index.ts';
import type { VaultStatus } from '../rpc/status.ts';
import type { Mounts } from './mounts.ts';
import { type AskBound, Reader, type ReaderSite } from './reader.ts';

export interface LastPoint {
  readonly id: string;
  readonly createdAt: string;
}

export interface VaultsOptions {
  readonly site: ReaderSite;
  readonly mounts: Mounts;
}

type Room = Pick<VaultStatus, 'totalBytes' | 'freeBytes'>;
const UNKNOWN: Room = { totalBytes: null, freeBytes: null };
/** With these the vault itself is not there. */
const AWAY = new Set(['vault-away', 'vault-missing', 'vault-unreadable']);
/** Reading all manifests of a large vault takes its time. */
const STATS_MS = 60_000;
/** So it is not done at each look: the points that the daemon makes it knows anyway. */
const COUNT_EVERY_MS = 3_600_000;

export class Vaults {
  readonly #options: VaultsOptions;
  #config: Config;
  readonly #readers = new Map<string, Reader>();
  readonly #room = new Map<string, Room>();
  /** By vault and VM: the newest point that is known. */
  #countedAtMs = Number.NEGATIVE_INFINITY;
  readonly #newest = new Map<string, Map<string, LastPoint>>();

  constructor(config: Config, options: VaultsOptions) {
    this.#config = config;
    this.#options = options;
    options.mounts.configure(config.vaults);
  }

  async configure(config: Config): Promise<void> {
    this.#config = config;
    this.#options.mounts.configure(config.vaults);
    for (const [name, reader] of this.#readers) {
      if (config.vaults.some((vault) => vault.name === name)) continue;
      this.#readers.delete(name);
      this.#room.delete(name);
      this.#newest.delete(name);
      await reader.close();
    }
  }

  /** @param name null: the only or the default one @throws vault-unknown */
  get(name: string | null): VaultConfig {
    const wanted = name ?? this.#config.defaults.vault;
    const vault = this.#config.vaults.find((vault) => vault.name === wanted);
    if (vault !== undefined) return vault;
    const names = this.#config.vaults.map(({ name }) => name).join(', ');
    throw new QmpvaultError(
      'vault-unknown',
      wanted === null
        ? `which vault? There is no default one, but ${names}`
        : `the configuration has no vault ${wanted}, but ${names}`,
      { details: { vault: wanted, vaults: this.#config.vaults.map(({ name }) => name) } },
    );
  }

  /** Its folder is there until what this returns is disposed of. @throws vault-away, vault-unknown */
  async use(
    name: string | null,
    signal?: AbortSignal,
    isNeed = true,
  ): Promise<Disposable & { readonly path: string }> {
    const vault = this.get(name);
    const share = await this.#options.mounts.use(vault.name, { signal, isNeed });
    return { path: vault.path, [Symbol.dispose]: () => share[Symbol.dispose]() };
  }

  /** A short question; its params without the vault. @throws vault-away when no answer comes; what the operation throws */
  async ask<N extends OperationName>(
    name: string | null,
    operation: N,
    params: Omit<Params<N>, 'vault'>,
    { isNeed = true, ...bound }: AskBound & { isNeed?: boolean } = {},
  ): Promise<Result<N>> {
    const vault = this.get(name);
    using share = await this.use(vault.name, bound.signal, isNeed);
    const reader = this.#readers.get(vault.name) ?? new Reader(this.#options.site, `the vault ${vault.name}`);
    this.#readers.set(vault.name, reader);
    const wish = { vault: share.path, ...params } as unknown as Params<N>;
    try {
      const result = await reader.ask(operation, wish, bound);
      this.report(vault.name, null);
      return result;
    } catch (error) {
      this.report(vault.name, error);
      throw error;
    }
  }

  /** What was seen of a vault. Other errors than these say nothing of it as a whole. */
  report(name: string, error: unknown): void {
    const isAway = error !== null && AWAY.has(codeOf(error));
    this.#options.mounts.report(name, isAway ? 'away' : 'ready', isAway ? messageOf(error) : null);
  }

  /** How full it is, and its newest points. @throws as ask */
  async stats(name: string | null, signal?: AbortSignal, isNeed = true): Promise<Result<'stats'>> {
    const vault = this.get(name);
    const stats = await this.ask(vault.name, 'stats', {}, { signal, timeoutMs: STATS_MS, isNeed });
    const { totalBytes, freeBytes } = stats;
    this.#room.set(vault.name, { totalBytes, freeBytes });
    const newest = stats.vms.flatMap(({ name, newest }) => (newest ? [[name, newest] as const] : []));
    this.#newest.set(vault.name, new Map(newest));
    return stats;
  }

  /** Asks all of them how they are. Never throws; a vault that is only mounted when needed is left alone. */
  async look(): Promise<void> {
    const { mounts } = this.#options;
    await mounts.unmountIdle();
    const isTimeToCount = performance.now() - this.#countedAtMs > COUNT_EVERY_MS;
    if (isTimeToCount) this.#countedAtMs = performance.now();
    const present = this.#config.vaults.filter(
      ({ name, mount }) => mount === null || !['unmounted', 'unknown'].includes(mounts.stateOf(name).state),
    );
    await Promise.all(
      present.map(({ name }) =>
        (isTimeToCount ? this.stats(name, undefined, false) : this.#measure(name)).catch(() => {}),
      ),
    );
  }

  async #measure(name: string): Promise<void> {
    const { totalBytes, freeBytes } = await this.ask(name, 'stats', { points: false }, { isNeed: false });
    this.#room.set(name, { totalBytes, freeBytes });
  }

  pointMade(vault: string, vm: string, point: LastPoint): void {
    const points = this.#newest.get(vault) ?? new Map<string, LastPoint>();
    this.#newest.set(vault, points.set(vm, point));
  }

  lastPoint(vault: string, vm: string): LastPoint | null {
    return this.#newest.get(vault)?.get(vm) ?? null;
  }

  status(): VaultStatus[] {
    return this.#config.vaults.map(({ name, path }) => {
      const { state, since, why } = this.#options.mounts.stateOf(name);
      return { name, path, state, since: since.toISOString(), why, ...(this.#room.get(name) ?? UNKNOWN) };
    });
  }

  async close(): Promise<void> {
    await Promise.all([...this.#readers.values()].map((reader) => reader.close()));
  }
}
