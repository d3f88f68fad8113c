/**
 * The vaults' shares: mounted when they are needed, unmounted when they were not for a while. mount(8) and umount(8) are
 * processes with a deadline: a NAS that is away costs them, and never the daemon. What is mounted is read from the kernel's
 * table; nothing here opens, lists or stats a path of the NAS.
 */
import { mkdir } from 'node:fs/promises';
import type { Clock } from '../base/clock.ts';
import { bounded, throwIfAborted } from '../base/deadline.ts';
import { messageOf, QmpvaultError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { MountConfig, VaultConfig } from '../config/config.ts';
import { runCommand } from '../image/command.ts';
import { type Mounted, mountedAt, readMountTable } from '../image/mount-table.ts';
import type { VaultStatus } from '../rpc/status.ts';
import { mountCommand, mountSecrets, refusalOf } from './mount-command.ts';

export interface VaultState {
  readonly state: VaultStatus['state'];
  readonly since: Date;
  /** Of one that is away. */
  readonly why: string | null;
}

/** For tests. */
export interface MountSite {
  readonly mount: string;
  readonly umount: string;
  readonly readTable: () => Promise<string>;
  readonly timeoutMs: number;
}

const SITE: MountSite = { mount: 'mount', umount: 'umount', readTable: readMountTable, timeoutMs: 30_000 };

interface Share {
  readonly vault: VaultConfig;
  state: VaultState;
  users: number;
  /** Since when nobody uses it. */
  idleSince: Date;
  /** What is being done: one after the other. */
  doing: Promise<void>;
  /** Commands that hang in the kernel. */
  stuck: number;
}

export class Mounts {
  readonly #shares = new Map<string, Share>();
  /** No longer in the configuration: unmounted when they are idle, as it was said then. */
  readonly #leaving = new Set<Share>();
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #site: MountSite;

  constructor({ clock, log, site = SITE }: { clock: Clock; log: Log; site?: MountSite }) {
    this.#clock = clock;
    this.#log = log;
    this.#site = site;
  }

  /** At the start, and when the configuration changed. */
  configure(vaults: readonly VaultConfig[]): void {
    const before = new Map(this.#shares);
    this.#shares.clear();
    for (const vault of vaults) {
      const known = before.get(vault.name);
      const isSame = known !== undefined && placeOf(known.vault) === placeOf(vault);
      this.#shares.set(vault.name, isSame ? Object.assign(known, { vault }) : this.#newShare(vault));
      if (isSame) before.delete(vault.name);
    }
    for (const share of before.values()) if (share.vault.mount !== null) this.#leaving.add(share);
    const places = new Set(vaults.map(placeOf));
    for (const share of this.#leaving) if (places.has(placeOf(share.vault))) this.#leaving.delete(share);
  }

  stateOf(name: string): VaultState {
    return this.#share(name).state;
  }

  /** By whoever asked it something: a reader, a run. */
  report(name: string, state: 'ready' | 'away', why: string | null = null): void {
    this.#setState(this.#share(name), state, why);
  }

  /**
   * Makes sure that the vault's share is mounted, and that it stays so until the answer is disposed of. A vault without a
   * share of ours is always there. Also for a run that was found at work when the daemon started.
   * @throws vault-away with the reason, vault-unknown, cancelled
   */
  async use(
    name: string,
    { signal, isNeed = true }: { signal?: AbortSignal | undefined; isNeed?: boolean } = {},
  ): Promise<Disposable> {
    const share = this.#share(name);
    share.users += 1;
    try {
      const mounted = this.#inTurn(share, (mount) => {
        throwIfAborted(signal);
        return this.#mount(share, mount);
      });
      await bounded(mounted, { signal, what: `the mount of ${name}` });
    } catch (error) {
      this.#release(share, isNeed);
      throw error;
    }
    let isReleased = false;
    return {
      [Symbol.dispose]: () => {
        if (!isReleased) this.#release(share, isNeed);
        isReleased = true;
      },
    };
  }

  /** Unmounts what was not used for as long as the configuration says. To be called every minute. Never rejects. */
  async unmountIdle(): Promise<void> {
    const now = this.#clock().getTime();
    const idle = [...this.#shares.values(), ...this.#leaving].filter(({ vault, users, idleSince }) => {
      const idleMs = vault.mount?.idleMs ?? 0;
      const waited = now - idleSince.getTime();
      // Negative: the clock was put back.
      return idleMs > 0 && users === 0 && (waited >= idleMs || waited < 0);
    });
    await Promise.all(idle.map((share) => this.#inTurn(share, (mount) => this.#unmount(share, mount))));
    // Whatever is mounted there from now on is none of ours.
    for (const share of this.#leaving) if (share.state.state === 'unmounted') this.#leaving.delete(share);
  }

  async #mount(share: Share, mount: MountConfig): Promise<void> {
    const mounted = await this.#mounted(mount);
    if (mounted !== null) {
      const refusal = refusalOf(mounted, mount);
      if (refusal !== null) throw this.#away(share, refusal);
      if (share.state.state !== 'away') this.#setState(share, 'ready');
      return;
    }
    // Only where nothing is mounted: else it could hang.
    await mkdir(mount.point, { recursive: true, mode: 0o700 }).catch((error: unknown) => {
      throw this.#away(share, `the mount point cannot be made: ${messageOf(error)}`);
    });
    const command = mountCommand(this.#site.mount, mount);
    const failure = await this.#run(share, command, { env: mountSecrets(mount) });
    if (failure !== null) throw this.#away(share, failure.why);
    this.#log.info({ vault: share.vault.name, point: mount.point }, 'mounted');
    this.#setState(share, 'ready');
  }

  async #unmount(share: Share, mount: MountConfig): Promise<void> {
    const { name } = share.vault;
    // Somebody came while this waited for its turn.
    if (share.users > 0) return;
    const mounted = await this.#mounted(mount);
    if (mounted === null || refusalOf(mounted, mount) !== null) return this.#setState(share, 'unmounted');
    // Neither looks at the path first: that alone would hang.
    let failure = await this.#run(share, [this.#site.umount, '-c', mount.point]);
    // A share that somebody else still uses stays. One whose NAS does not answer is taken out of the tree.
    if (failure?.isHung)
      failure = await this.#run(share, [this.#site.umount, '-c', '-l', mount.point], { beside: 1 });
    if (failure !== null) {
      return this.#log.warn({ vault: name, point: mount.point, reason: failure.why }, 'cannot be unmounted');
    }
    this.#log.info({ vault: name, point: mount.point }, 'unmounted');
    this.#setState(share, 'unmounted');
  }

  /** @param beside so many others that hang @returns what it failed with; null when it did not */
  async #run(
    share: Share,
    command: readonly [string, ...string[]],
    { env = {}, beside = 0 }: { env?: NodeJS.ProcessEnv; beside?: number } = {},
  ): Promise<{ why: string; isHung: boolean } | null> {
    const [program] = command;
    if (share.stuck > beside) {
      return { why: `an earlier command for it still hangs: the NAS does not answer`, isHung: true };
    }
    const { timeoutMs } = this.#site;
    const { exitCode, output, timedOut, gone } = await runCommand(command, { timeoutMs, env });
    if (timedOut) {
      share.stuck += 1;
      void gone.then(() => {
        share.stuck -= 1;
      });
      return { why: `${program} did not end within ${timeoutMs} ms: the NAS does not answer`, isHung: true };
    }
    return exitCode === 0 ? null : { why: output || `${program} ended with ${exitCode}`, isHung: false };
  }

  async #mounted({ point }: MountConfig): Promise<Mounted | null> {
    return mountedAt(await this.#site.readTable(), point);
  }

  async #inTurn(share: Share, work: (mount: MountConfig) => Promise<void>): Promise<void> {
    const { mount } = share.vault;
    if (mount === null) return;
    const mine = share.doing.then(() => work(mount));
    share.doing = mine.catch(() => {});
    await mine;
  }

  /** @param isNeed a look at how it is does not count: else nothing would ever be idle */
  #release(share: Share, isNeed: boolean): void {
    share.users -= 1;
    if (isNeed) share.idleSince = this.#clock();
  }

  #away(share: Share, why: string): QmpvaultError {
    const { name, mount } = share.vault;
    this.#setState(share, 'away', why);
    return new QmpvaultError('vault-away', `the vault ${name} cannot be mounted at ${mount?.point}: ${why}`, {
      details: { vault: name, point: mount?.point ?? null },
    });
  }

  #setState(share: Share, state: VaultState['state'], why: string | null = null): void {
    if (share.state.state === state && share.state.why === why) return;
    const since = share.state.state === state ? share.state.since : this.#clock();
    if (share.state.state !== state && state === 'away') {
      this.#log.warn({ vault: share.vault.name, reason: why }, 'the NAS is away');
    }
    share.state = { state, since, why };
  }

  #share(name: string): Share {
    const share = this.#shares.get(name);
    if (share !== undefined) return share;
    throw new QmpvaultError('vault-unknown', `the configuration has no vault ${name}`, {
      details: { vault: name, vaults: [...this.#shares.keys()] },
    });
  }

  #newShare(vault: VaultConfig): Share {
    const now = this.#clock();
    return {
      vault,
      state: { state: 'unknown', since: now, why: null },
      users: 0,
      idleSince: now,
      doing: Promise.resolve(),
      stuck: 0,
    };
  }
}

function placeOf({ path, mount }: VaultConfig): string {
  return mount?.point ?? path;
}
