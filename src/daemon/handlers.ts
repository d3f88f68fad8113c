/** What each method of the RPC does: asked of a vault, made a run, or told from what the daemon knows. */
import { open } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import { errnoOf, QmpvaultError } from '../base/errors.ts';
import type { OperationName } from '../operations/index.ts';
import type { METHODS } from '../rpc/methods.ts';
import { openRpcDocument } from '../rpc/openrpc.ts';
import type { Run } from '../rpc/run.ts';
import type { Handlers } from '../rpc/server.ts';
import { nameOf, type Share } from '../rpc/share.ts';
import type { DaemonStatus } from '../rpc/status.ts';
import type { Exports } from './exports.ts';
import type { RunRecord } from './run-record.ts';
import { isEnded } from './run-state.ts';
import type { RunStore } from './run-store.ts';
import type { Runs } from './runs.ts';
import type { Subscriptions } from './subscriptions.ts';
import type { Vaults } from './vaults.ts';
import type { VmStatuses } from './vm-statuses.ts';
import type { KnownVm, Vms } from './vms.ts';

export interface MethodsSite {
  readonly vms: Vms;
  readonly vaults: Vaults;
  readonly store: RunStore;
  readonly runs: Runs;
  readonly exports: Exports;
  readonly subscriptions: Subscriptions;
  readonly statuses: VmStatuses;
  readonly runJson: (record: RunRecord, withResult?: boolean) => Run;
  readonly logOf: (id: string) => string;
  readonly status: () => Promise<DaemonStatus>;
  readonly reload: () => Promise<readonly string[]>;
  readonly config: () => { file: string; config: Record<string, unknown> };
}

const LIST_LIMIT = 100;
const LOG_BYTES = 65_536;

export function handlers(site: MethodsSite): Handlers<typeof METHODS> {
  const { vms, vaults, store, runs, exports, subscriptions, statuses } = site;
  const vaultOf = (vm: KnownVm | null, vault: string | undefined) => vault ?? vm?.vault ?? null;
  /** A VM that the vault may have points of, though nobody knows it any more. */
  const known = (name: string) => vms.list().find((vm) => vm.name === name) ?? null;

  return {
    'vm.list': async () => ({ vms: await statuses.all() }),
    'vm.add': async ({ vm: name, ...wish }) => ({ vm: await statuses.of(await vms.add(name, wish)) }),
    'vm.remove': async ({ vm }) => {
      await vms.remove(vm);
      return { removed: vm };
    },
    'vm.inspect': async ({ vm: name, vault }, { signal }) => {
      const vm = vms.get(name);
      const { qmp, images, fullEvery } = vm;
      const params = { vm: name, ...(qmp !== null && { qmp }), images: { ...images }, fullEvery };
      return vaults.ask(vaultOf(vm, vault), 'inspect', params, { signal, ...VM_BOUND });
    },

    'backup.start': ({ pointId, ...wish }) =>
      start('backup', { ...wish, ...(pointId && { point: pointId }) }, vms.get(wish.vm)),
    'restore.start': (wish) => start('restore', wish, known(wish.vm)),
    'verify.start': (wish) => start('verify', wish, wish.vm === undefined ? null : known(wish.vm)),
    'prune.start': (wish) => start('prune', wish, known(wish.vm)),
    'point.delete': (wish) => start('delete', wish, known(wish.vm)),

    'share.backup': (wish) => startOnShare('backup', wish),
    'share.delete': (wish) => startOnShare('delete', wish),

    'run.list': async ({ vm, what, state, limit = LIST_LIMIT }) => {
      const found = store
        .all()
        .filter((run) => vm === undefined || run.vm === vm)
        .filter((run) => what === undefined || run.what === what)
        .filter((run) => state === undefined || run.state === state);
      return {
        runs: found
          .slice(-limit)
          .toReversed()
          .map((run) => site.runJson(run, false)),
      };
    },
    'run.get': async ({ runId }) => site.runJson(runs.get(runId)),
    'run.wait': async ({ runId, timeoutMs }, { signal }) =>
      site.runJson(await runs.wait(runId, { timeoutMs, signal })),
    'run.cancel': async ({ runId, why }) => site.runJson(await runs.cancel(runId, why)),
    'run.setBandwidth': async ({ runId, bandwidth }) =>
      site.runJson(await runs.setBandwidth(runId, bandwidth)),
    'run.subscribe': async (wish, { client }) => {
      const told = wish.runId === undefined ? store.active() : [runs.get(wish.runId)];
      return {
        subscription: subscriptions.add(
          client,
          wish,
          told.map((run) => site.runJson(run)),
        ),
      };
    },
    'run.unsubscribe': async ({ subscription }, { client }) => ({
      ended: subscriptions.remove(client, subscription),
    }),
    'run.log': async ({ runId, offset, maxBytes = LOG_BYTES }) =>
      readLines(site.logOf(runs.get(runId).id), offset, maxBytes),

    'point.list': ({ vm, vault, cache }, { signal }) =>
      vaults.ask(vaultOf(vm === undefined ? null : known(vm), vault), 'list', { vm, cache }, { signal }),
    'point.get': ({ vm, point, vault }, { signal }) =>
      vaults.ask(vaultOf(known(vm), vault), 'show', { vm, point }, { signal }),
    'point.protect': ({ vm, point, protect, vault }, { signal }) =>
      vaults.ask(vaultOf(known(vm), vault), 'protect', { vm, point, protect }, { signal }),
    'chain.get': ({ vm, vault }, { signal }) =>
      vaults.ask(vaultOf(known(vm), vault), 'chain', { vm }, { signal }),
    'chain.seal': ({ vm, point, vault }, { signal }) =>
      vaults.ask(vaultOf(known(vm), vault), 'seal', { vm, point }, { signal }),

    'hold.list': ({ vm, vault }, { signal }) =>
      vaults.ask(vaultOf(known(vm), vault), 'holds', { vm }, { signal }),
    'hold.end': ({ vm, holdId, force, vault }, { signal }) =>
      vaults.ask(vaultOf(known(vm), vault), 'holds', { vm, end: holdId, force }, { signal }),

    'bitmap.list': ({ vm, vault }, { signal }) => bitmaps(vms.get(vm), vault, {}, signal),
    'bitmap.remove': ({ vm, which, vault }, { signal }) =>
      bitmaps(vms.get(vm), vault, { remove: which }, signal),

    'nbd.list': async () => ({ exports: exports.list() }),
    'nbd.start': async ({ vm, point, vault }, { signal }) =>
      exports.start(await vaults.use(vaultOf(known(vm), vault), signal), { vm, point }, signal),
    'nbd.stop': async ({ exportId }) => {
      await exports.stop(exportId);
      return { stopped: exportId };
    },

    'vault.stats': ({ vault }, { signal }) => vaults.stats(vault ?? null, signal),
    'daemon.status': () => site.status(),
    'daemon.reload': async () => ({ changes: await site.reload() }),
    'config.get': async () => site.config(),
    'rpc.discover': async () => ({ ...openRpcDocument() }),
  };

  async function bitmaps(
    vm: KnownVm,
    vault: string | undefined,
    wish: { remove?: 'orphans' | 'ours' },
    signal: AbortSignal,
  ) {
    if (vm.qmp === null) {
      throw new QmpvaultError(
        'vm-unreachable',
        `${vm.name} has no QMP socket: bitmaps are asked of a running VM`,
      );
    }
    const params = { vm: vm.name, qmp: vm.qmp, ...wish };
    return vaults.ask(vaultOf(vm, vault), 'bitmaps', params, { signal, ...VM_BOUND });
  }

  /** The wish as it was given: what the configuration adds is added when the run begins. */
  async function start(
    what: OperationName,
    { vault, requestId, whenBusy = 'wait', ...params }: Wish,
    vm: KnownVm | null,
  ): Promise<{ runId: string }> {
    const name = params.vm ?? null;
    const wish = {
      what,
      vm: name,
      vault: vaults.get(vaultOf(vm, vault)).name,
      params: plain(params),
      requestId: requestId ?? null,
      cause: 'requested',
    } as const;
    const before = requestId === undefined ? undefined : store.byRequest(requestId);
    if (before !== undefined) refuseOther(before, wish);
    const other = name === null ? undefined : store.active().find((run) => run.vm === name);
    if (before === undefined && whenBusy === 'refuse' && other !== undefined) {
      throw new QmpvaultError('run-busy', `the ${other.what} ${other.id} of ${name} is not over`, {
        details: { runId: other.id },
      });
    }
    return { runId: (await runs.start(wish)).id };
  }

  /** One point of one vault is one request: who asks again hears of the run that is under way. */
  async function startOnShare(
    what: OperationName,
    params: { vault: Share; vm: KnownVm['name']; point: string },
  ): Promise<{ runId: string }> {
    const { vm, point } = params;
    const vault = nameOf(params.vault);
    const requestId = `${what} ${vault} ${vm}/${point}`;
    const run = { what, vm, vault, params: plain(params), requestId, cause: 'requested' } as const;
    return { runId: (await runs.start(run, { again: true })).id };
  }
}

/** A VM may take its time to answer, and its disks theirs. */
const VM_BOUND = { timeoutMs: 30_000, code: 'vm-busy' } as const;

interface Wish {
  readonly vm?: KnownVm['name'] | undefined;
  readonly vault?: string | undefined;
  readonly requestId?: string | undefined;
  readonly whenBusy?: 'wait' | 'refuse' | undefined;
  readonly [param: string]: unknown;
}

function plain(params: object): Record<string, unknown> {
  return JSON.parse(JSON.stringify(params));
}

function refuseOther(before: RunRecord, wish: Pick<RunRecord, 'what' | 'vm' | 'vault' | 'params'>): void {
  const { what, vm, vault, params } = before;
  if (
    isDeepStrictEqual(
      { what, vm, vault, params },
      { what: wish.what, vm: wish.vm, vault: wish.vault, params: wish.params },
    )
  )
    return;
  throw new QmpvaultError(
    'request-conflict',
    `the requestId ${before.requestId} stands for the ${what} ${before.id}, which was asked for with other words`,
    { details: { runId: before.id, isEnded: isEnded(before.state) } },
  );
}

/** Whole lines; the last one may still be written. */
async function readLines(path: string, offset: number | undefined, maxBytes: number) {
  let file: Awaited<ReturnType<typeof open>>;
  try {
    file = await open(path, 'r');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return { lines: [], nextOffset: 0, atEnd: true };
    throw error;
  }
  await using log = file;
  const { size } = await log.stat();
  const from = Math.min(offset ?? Math.max(0, size - maxBytes), size);
  const { buffer, bytesRead } = await log.read({
    buffer: Buffer.alloc(Math.min(maxBytes, size - from)),
    position: from,
  });
  const bytes = buffer.subarray(0, bytesRead);
  const end = bytes.lastIndexOf(10) + 1;
  // A line that is longer than what is read at a time is told in parts: else nobody would get beyond it.
  const told = end > 0 ? end : bytesRead === maxBytes ? bytesRead : 0;
  const lines = bytes
    .subarray(0, told)
    .toString('utf8')
    .split('\n')
    .slice(0, end > 0 ? -1 : undefined);
  return { lines: told === 0 ? [] : lines, nextOffset: from + told, atEnd: from + told >= size };
}
