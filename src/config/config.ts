/** The configuration as the daemon works with it: everything decided, nothing to be changed. */
import { join } from 'node:path';
import { type DiskName, diskName, type VmName, vmName } from '../base/ids.ts';
import type { LogLevel } from '../base/log.ts';
import type { Keep } from '../upkeep/retention.ts';
import type { FileConfig, VmWish } from './schema.ts';
import type { Secret } from './secret.ts';
import type { Window } from './values.ts';

export interface Config {
  /** Where it was read. */
  readonly file: string;
  readonly vaults: readonly VaultConfig[];
  readonly scratch: { readonly path: string; readonly limitBytes: number | null };
  readonly rpc: { readonly socket: string; readonly group: string | null };
  readonly limits: Limits;
  /** Of VMs that are found by `discover`. */
  readonly defaults: VmSettings;
  readonly vms: readonly VmConfig[];
  /** Globs of QMP sockets. */
  readonly discover: readonly string[];
  readonly metrics: { readonly port: number } | { readonly socket: string } | null;
  readonly hooks: { readonly onSuccess: readonly HookConfig[]; readonly onFailure: readonly HookConfig[] };
  readonly log: { readonly level: LogLevel };
}

export interface VaultConfig {
  readonly name: string;
  /** With `mount`: inside of it. */
  readonly path: string;
  readonly mount: MountConfig | null;
}

export interface MountConfig {
  readonly type: 'nfs' | 'cifs';
  readonly source: string;
  readonly options: Secret | null;
  readonly point: string;
  /** Unmounted when it was not needed for so long; 0: never. */
  readonly idleMs: number;
}

export interface Limits {
  readonly runs: number;
  readonly perVault: number;
  /** Bytes per second, over all runs. */
  readonly bandwidth: number | null;
  /** Of the RPC socket. */
  readonly clients: number;
}

export interface VmSettings {
  /** A name of `vaults`; null where several are there and none was chosen (of the defaults only). */
  readonly vault: string | null;
  readonly fullEvery: number;
  /** Cron; null: only when asked. */
  readonly schedule: string | null;
  readonly timeZone: string;
  readonly jitterMs: number;
  readonly quiesce: 'auto' | 'required' | 'off';
  readonly keep: Keep | null;
  readonly maxChain: number | null;
  readonly prune: { readonly schedule: string | null } | null;
  readonly verify: VerifyConfig | null;
  readonly blackout: readonly Window[];
  readonly retries: RetryConfig;
}

export interface VerifyConfig {
  readonly schedule: string | null;
  readonly oldest: number;
  readonly level: 'quick' | 'deep';
  /** null: no guest is started. Else as the operation's parameter. */
  readonly boot: {
    readonly line?: string;
    readonly timeoutMs: number;
    readonly memoryBytes: number;
    readonly bus: 'virtio' | 'scsi' | 'sata' | 'nvme';
    readonly args: readonly string[];
  } | null;
}

export interface RetryConfig {
  /** Of one run, the first included. */
  readonly attempts: number;
  readonly firstMs: number;
  readonly longestMs: number;
}

export interface VmConfig extends VmSettings {
  readonly vault: string;
  readonly name: VmName;
  /** null: it never runs. */
  readonly qmp: string | null;
  readonly agent: string | null;
  /** Of a VM that does not run, where the vault does not know them. */
  readonly images: Readonly<Record<DiskName, string>>;
  readonly exclude: readonly DiskName[];
}

export type HookConfig = { readonly timeoutMs: number } & (
  | { readonly command: readonly string[] }
  | { readonly webhook: Secret }
);

/** Not in the runtime folder: which vault is known is remembered by path, and must outlive the host's restart. */
const MOUNTS = '/var/lib/qmpvault/mnt';

/** @param given without flaws, cross-checks included */
export function resolveConfig(file: string, given: FileConfig): Config {
  const { scratch, rpc, limits, hooks } = given;
  const vaults = Object.entries(given.vaults).map(([name, vault]) => vaultOf(name, vault));
  const defaults = settingsOf(given.defaults, vaults);
  const config: Config = {
    file,
    vaults,
    scratch: { path: scratch.path, limitBytes: scratch.limit ?? null },
    rpc: { socket: rpc.socket, group: rpc.group ?? null },
    limits: {
      runs: limits.runs,
      perVault: limits.perVault ?? limits.runs,
      bandwidth: limits.bandwidth ?? null,
      clients: limits.clients,
    },
    defaults,
    vms: Object.entries(given.vms).map(([name, vm]) => vmConfig(defaults, name, vm)),
    discover: given.discover,
    metrics: metricsOf(given.metrics),
    hooks: { onSuccess: hooks.onSuccess.map(hookOf), onFailure: hooks.onFailure.map(hookOf) },
    log: given.log,
  };
  return deepFreeze(config);
}

/** One VM, also one that is added later or was found: what it does not say itself, the defaults say. @throws name-invalid */
export function vmConfig(defaults: VmSettings, name: string, wish: VmWish): VmConfig {
  const settings = { ...defaults, ...settingsGiven(wish) };
  const images = Object.entries(wish.disks ?? {}).map(([disk, image]) => [diskName(disk), image]);
  return deepFreeze({
    ...settings,
    // The cross-checks have seen that there is one.
    vault: settings.vault ?? '',
    name: vmName(name),
    qmp: wish.qmp ?? null,
    agent: wish.agent ?? null,
    images: Object.fromEntries(images) as Record<DiskName, string>,
    exclude: (wish.exclude ?? []).map(diskName),
  });
}

function settingsOf(given: FileConfig['defaults'], vaults: readonly VaultConfig[]): VmSettings {
  const onlyVault = vaults.length === 1 ? (vaults[0]?.name ?? null) : null;
  return {
    vault: onlyVault,
    fullEvery: 10,
    schedule: null,
    timeZone: Intl.DateTimeFormat().resolvedOptions().timeZone,
    jitterMs: 0,
    quiesce: 'auto',
    keep: null,
    maxChain: null,
    prune: null,
    verify: null,
    blackout: [],
    retries: { attempts: 5, firstMs: 60_000, longestMs: 3_600_000 },
    ...settingsGiven(given),
  };
}

function settingsGiven(given: FileConfig['defaults']): Partial<VmSettings> {
  const { vault, fullEvery, schedule, timeZone, jitter, quiesce } = given;
  const { keep, maxChain, prune, verify, blackout, retries } = given;
  const settings = {
    vault,
    fullEvery,
    schedule,
    timeZone,
    jitterMs: jitter,
    quiesce,
    keep: keep && withoutUndefined(keep),
    maxChain,
    prune,
    verify: verify && verifyOf(verify),
    blackout,
    retries: retries && { attempts: retries.attempts, firstMs: retries.first, longestMs: retries.longest },
  };
  return withoutUndefined(settings);
}

function verifyOf({ boot, ...verify }: NonNullable<FileConfig['defaults']['verify']>): VerifyConfig {
  if (boot === undefined) return { ...verify, boot: null };
  const { line, timeout, memory, bus, args } = boot;
  return {
    ...verify,
    boot: { ...(line !== undefined && { line }), timeoutMs: timeout, memoryBytes: memory, bus, args },
  };
}

function vaultOf(name: string, { path, mount }: FileConfig['vaults'][string]): VaultConfig {
  if (mount === undefined) return { name, path: path ?? '', mount: null };
  const { type, source, options, point = join(MOUNTS, name), folder, idle } = mount;
  return {
    name,
    path: join(point, folder),
    mount: { type, source, options: options ?? null, point, idleMs: idle },
  };
}

function metricsOf(given: FileConfig['metrics']): Config['metrics'] {
  if (given?.port !== undefined) return { port: given.port };
  return given?.socket === undefined ? null : { socket: given.socket };
}

function hookOf({ command, webhook, timeout }: FileConfig['hooks']['onSuccess'][number]): HookConfig {
  return webhook === undefined
    ? { timeoutMs: timeout, command: command ?? [] }
    : { timeoutMs: timeout, webhook };
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

function withoutUndefined<T extends object>(value: T): Defined<T> {
  return Object.fromEntries(Object.entries(value).filter(([, it]) => it !== undefined)) as Defined<T>;
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) deepFreeze(inner);
  }
  return value;
}
