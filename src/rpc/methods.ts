/**
 * The methods of the daemon and the notifications that it sends: the one table that validates calls, types server and
 * client, and becomes the OpenRPC document and docs/rpc.md. Parameters are by name, and unknown ones are refused, so
 * that a misspelled wish is not silently left undone.
 */
import { z } from 'zod';
import type { ErrorCode } from '../base/errors.ts';
import {
  bootParam,
  cacheParam,
  descendantsParam,
  diskPathsParam,
  formatParam,
  keepParam,
  levelParam,
  newPointParam,
  quiesceParam,
  rateParam,
  selectorParam,
  vmParam,
} from './params.ts';
import {
  bitmapsResult,
  chainResult,
  inspectResult,
  type Json,
  listResult,
  pointResult,
  RESULTS,
  serveResult,
  showResult,
} from './results.ts';
import { RUN_KINDS, RUN_STATES, run } from './run.ts';
import { shareBackup, shareDelete } from './share.ts';
import { daemonStatus, vmStatus } from './status.ts';

export interface Method {
  readonly summary: string;
  readonly params: z.ZodType;
  readonly result: z.ZodType;
  /** Those to expect, besides those that any call may end with. */
  readonly errors: readonly ErrorCode[];
  /** It answers when something has happened, however long that takes. */
  readonly waits?: true;
}

const vault = z.string().optional().meta({
  description: "a vault's name in the configuration; default: the VM's own, else the default vault",
});
const runId = z.string().meta({ description: 'the id of the run' });
const requestId = z.string().min(1).max(200).optional().meta({
  description:
    'names this wish: asked for once more under the same id, no other run begins, and the first is answered',
});
const whenBusy = z.enum(['wait', 'refuse']).optional().meta({
  description: 'when another run of the VM is queued or at work: wait for it (default), or error run-busy',
});
const waitMs = z.int().nonnegative().optional().meta({
  description:
    'how long it may wait: to begin, while other runs are under way (then error run-busy), and for who reads or changes the points (then error vault-locked). Default: to begin as long as it takes, for the others not at all',
});
const breakLease = z.boolean().optional().meta({
  description: 'whoever holds the lease of this VM is surely gone: take it over',
});
const started = z.object({ runId });
const none = z.strictObject({});
const exported = serveResult.extend({ exportId: z.string().meta({ description: 'for nbd.stop' }) });
const ofVault: readonly ErrorCode[] = ['vm-unknown', 'vault-unknown', 'vault-away', 'vault-unreadable'];
const ofPoint: readonly ErrorCode[] = [...ofVault, 'point-unknown'];
const ofStart: readonly ErrorCode[] = [
  'vm-unknown',
  'vault-unknown',
  'run-busy',
  'request-conflict',
  'daemon-stopping',
];

export const METHODS = {
  'vm.list': {
    summary: 'All VMs that the daemon knows',
    params: none,
    result: z.object({ vms: z.array(vmStatus) }),
    errors: [],
  },
  'vm.add': {
    summary:
      'Makes a VM known, durably. Takes what may stand under `vms:` in the configuration; added once more, the new takes the place of the old',
    params: z
      .object({
        vm: vmParam,
        qmp: z.string().optional().meta({ description: 'its QMP socket' }),
        agent: z.string().optional().meta({ description: "its guest agent's socket" }),
        disks: diskPathsParam
          .optional()
          .meta({ description: 'the images of a VM that does not run, by disk' }),
      })
      .catchall(z.unknown()),
    result: z.object({ vm: vmStatus }),
    errors: ['name-invalid'],
  },
  'vm.remove': {
    summary: 'Forgets a VM that was added, or that was discovered and is gone; its points stay',
    params: z.strictObject({ vm: vmParam }),
    result: z.object({ removed: z.string().meta({ description: 'its name' }) }),
    errors: ['vm-unknown'],
  },
  'vm.inspect': {
    summary:
      'The disks of a VM, the health of their bitmaps, what the next backup will be and why; changes nothing',
    params: z.strictObject({ vm: vmParam, vault }),
    result: inspectResult,
    errors: [...ofVault, 'vm-unreachable', 'vm-busy', 'vm-uuid', 'vm-unfit'],
  },

  'backup.start': {
    summary: 'Begins a run that makes a restore point',
    params: z.strictObject({
      vm: vmParam,
      full: z.boolean().optional().meta({ description: 'begin a new chain' }),
      bandwidth: rateParam.optional(),
      quiesce: quiesceParam.optional(),
      vault,
      pointId: newPointParam.optional(),
      whenBusy,
      requestId,
    }),
    result: started,
    errors: ofStart,
  },
  'restore.start': {
    summary:
      'Begins a run that brings the disks of a restore point back: to a folder, each to its target, or in the place of what is there',
    params: z
      .strictObject({
        vm: vmParam,
        point: selectorParam
          .optional()
          .meta({ description: "an id, a unique beginning of one, or 'latest' (default)" }),
        to: absolute('all disks into this folder, as <disk>.<format>').optional(),
        disks: diskPathsParam.optional().meta({ description: 'some disks, each to a file or block device' }),
        format: formatParam.optional(),
        inPlace: z.boolean().optional().meta({
          description:
            "in the place of the VM's own images, all or none; it must not run (then error vm-busy)",
        }),
        keepOld: z
          .boolean()
          .optional()
          .meta({ description: 'with inPlace: keep what was there under other names' }),
        force: z.boolean().optional().meta({ description: 'overwrite what is there' }),
        vault,
        requestId,
      })
      .refine(({ to, disks, inPlace }) => [to, disks, inPlace || undefined].filter(Boolean).length === 1, {
        path: ['to'],
        message:
          'where to? Give a folder (to), the targets of some disks (disks), or the own images of the VM (inPlace)',
      }),
    result: started,
    errors: ofStart,
  },
  'verify.start': {
    summary: 'Begins a run that proves that restore points can be restored: of all VMs, of one, or one point',
    params: z.strictObject({
      vm: vmParam.optional(),
      point: selectorParam.optional(),
      level: levelParam.optional(),
      boot: bootParam.optional().meta({
        description: 'a guest has to come up from each point too, on throwaway copies of its disks',
      }),
      oldest: z.int().positive().optional().meta({
        description: 'only so many points: those not looked at so closely for the longest time',
      }),
      vault,
      requestId,
    }),
    result: started,
    errors: ofStart,
  },
  'prune.start': {
    summary: 'Begins a run that deletes what a policy no longer keeps',
    params: z.strictObject({
      vm: vmParam,
      keep: keepParam
        .optional()
        .meta({ description: "how many points each rule keeps; default: the VM's own policy" }),
      maxChain: z.int().positive().optional().meta({
        description: 'the oldest points of a longer chain are merged into its full',
      }),
      timeZone: z.string().optional().meta({ description: 'of hours, days and weeks, as Europe/Berlin' }),
      dryRun: z.boolean().optional().meta({ description: 'only say what would go' }),
      breakLease,
      waitMs,
      vault,
      whenBusy,
      requestId,
    }),
    result: started,
    errors: ofStart,
  },

  'share.backup': {
    summary:
      'Begins a run that makes a restore point in a vault on a share, which is mounted for this run alone: for orchestrators that keep accounts of their own. The VM need not be known. Asked for again while it is under way, no other run begins, and the first is answered',
    params: shareBackup,
    result: started,
    errors: ['daemon-stopping'],
  },
  'share.delete': {
    summary:
      'Begins a run that deletes one restore point of a vault on a share, which is mounted for this run alone. Asked for again while it is under way, no other run begins, and the first is answered',
    params: shareDelete,
    result: started,
    errors: ['daemon-stopping'],
  },

  'run.list': {
    summary: 'The runs, newest first; those that ended long ago are forgotten',
    params: z.strictObject({
      vm: vmParam.optional(),
      what: z.enum(RUN_KINDS).optional(),
      state: z.enum(RUN_STATES).optional(),
      limit: z.int().positive().max(1000).optional().meta({ description: 'at most so many; default 100' }),
    }),
    result: z.object({ runs: z.array(run) }),
    errors: [],
  },
  'run.get': {
    summary: 'One run, as it is now',
    params: z.strictObject({ runId }),
    result: run,
    errors: ['run-unknown'],
  },
  'run.wait': {
    summary: 'Answers when the run has ended, or when the time is up: then with the run as it is',
    params: z.strictObject({
      runId,
      timeoutMs: z.int().nonnegative().optional().meta({ description: 'default: as long as it takes' }),
    }),
    result: run,
    errors: ['run-unknown'],
    waits: true,
  },
  'run.cancel': {
    summary: 'Ends a run within seconds, and undoes what it began. One that has ended stays as it is',
    params: z.strictObject({
      runId,
      why: z.string().max(200).optional().meta({ description: 'for the log and the error of the run' }),
    }),
    result: run,
    errors: ['run-unknown'],
  },
  'run.setBandwidth': {
    summary: 'Limits a run anew, also while it is at work',
    params: z.strictObject({
      runId,
      bandwidth: rateParam
        .nullable()
        .meta({ description: 'bytes per second, or a text such as 20MiB/s; null: no limit' }),
    }),
    result: run,
    errors: ['run-unknown'],
  },
  'run.subscribe': {
    summary:
      'From now on this connection is told of one run, of those of one VM, or of all. What a run is now is told first: also one that ended before is told as finished',
    params: z.strictObject({ runId: runId.optional(), vm: vmParam.optional() }),
    result: z.object({ subscription: z.string() }),
    errors: ['run-unknown', 'daemon-busy'],
  },
  'run.unsubscribe': {
    summary: 'Ends what run.subscribe began; so does the end of the connection',
    params: z.strictObject({ subscription: z.string() }),
    result: z.object({ ended: z.boolean().meta({ description: 'false: there was none of this name' }) }),
    errors: [],
  },
  'run.log': {
    summary: 'What a run wrote to its log, in whole lines',
    params: z.strictObject({
      runId,
      offset: z.int().nonnegative().optional().meta({
        description: 'where to begin, in bytes; default: so that the end is told',
      }),
      maxBytes: z.int().positive().max(262_144).optional().meta({ description: 'default 65536' }),
    }),
    result: z.object({
      lines: z.array(z.string()),
      nextOffset: z.int().nonnegative().meta({ description: 'the offset to ask for what follows' }),
      atEnd: z.boolean().meta({ description: 'nothing follows yet' }),
    }),
    errors: ['run-unknown'],
  },

  'point.list': {
    summary: 'The restore points of a VM, or of all, oldest first',
    params: z.strictObject({ vm: vmParam.optional(), vault, cache: cacheParam }),
    result: listResult,
    errors: ofVault,
  },
  'point.get': {
    summary: 'One restore point: its disks, what it stands on, how it was made',
    params: z.strictObject({ vm: vmParam, point: selectorParam, vault }),
    result: showResult,
    errors: ofPoint,
  },
  'point.delete': {
    summary: 'Begins a run that deletes one restore point; all others stay as they are',
    params: z.strictObject({
      vm: vmParam,
      point: selectorParam,
      descendants: descendantsParam.optional(),
      breakLease,
      waitMs,
      vault,
      whenBusy,
      requestId,
    }),
    result: started,
    errors: ofStart,
  },
  'point.protect': {
    summary: 'Lets neither prune nor delete take a restore point, or lets them again',
    params: z.strictObject({
      vm: vmParam,
      point: selectorParam,
      protect: z.boolean().optional().meta({ description: 'default true' }),
      vault,
    }),
    result: pointResult,
    errors: [...ofPoint, 'vault-locked'],
  },
  'chain.get': {
    summary: 'All points of a VM, and which stands on which',
    params: z.strictObject({ vm: vmParam, vault }),
    result: chainResult,
    errors: ofVault,
  },
  'chain.seal': {
    summary: 'Ends the chain at a point: the next backup begins a new one',
    params: z.strictObject({
      vm: vmParam,
      point: selectorParam
        .optional()
        .meta({ description: "an id, a unique beginning of one, or 'latest' (default)" }),
      vault,
    }),
    result: pointResult,
    errors: [...ofPoint, 'vault-locked'],
  },

  'hold.list': {
    summary: 'What outside of the vault stands on points of a VM, such as an instant restore',
    params: z.strictObject({ vm: vmParam, vault }),
    result: RESULTS.holds,
    errors: ofVault,
  },
  'hold.end': {
    summary: 'Ends a hold: what stood on the point is given up, or needs it no more',
    params: z.strictObject({
      vm: vmParam,
      holdId: z.string().min(1),
      force: z.boolean().optional().meta({ description: 'also if its files still need the point' }),
      vault,
    }),
    result: RESULTS.holds,
    errors: [...ofVault, 'point-unknown', 'point-held'],
  },

  'bitmap.list': {
    summary: 'The dirty bitmaps of a running VM, and whose they are',
    params: z.strictObject({ vm: vmParam, vault }),
    result: bitmapsResult,
    errors: [...ofVault, 'vm-unreachable', 'vm-busy'],
  },
  'bitmap.remove': {
    summary: 'Removes bitmaps from a running VM; without ours the next backup reads all disks again',
    params: z.strictObject({
      vm: vmParam,
      which: z.enum(['orphans', 'ours']).meta({
        description: 'orphans: those that no point and no run knows; ours: all of qmpvault',
      }),
      vault,
    }),
    result: bitmapsResult,
    errors: [...ofVault, 'vm-unreachable', 'vm-busy', 'vault-locked'],
  },

  'nbd.list': {
    summary: 'What is served over NBD now, whoever began it',
    params: none,
    result: z.object({ exports: z.array(exported) }),
    errors: [],
  },
  'nbd.start': {
    summary: 'Serves the disks of a restore point over NBD, read-only, until nbd.stop',
    params: z.strictObject({ vm: vmParam, point: selectorParam.optional(), vault }),
    result: exported,
    errors: [...ofPoint, 'vault-locked', 'writer-failed', 'image-invalid', 'link-refused'],
  },
  'nbd.stop': {
    summary: 'Ends what nbd.start began',
    params: z.strictObject({ exportId: z.string() }),
    result: z.object({ stopped: z.string().meta({ description: 'the exportId' }) }),
    errors: ['export-unknown'],
  },

  'vault.stats': {
    summary: 'How full a vault is, and with what',
    params: z.strictObject({
      vault: vault.meta({ description: "a vault's name in the configuration; default: the default vault" }),
    }),
    result: RESULTS.stats,
    errors: ['vault-unknown', 'vault-away', 'vault-unreadable'],
  },

  'daemon.status': {
    summary: 'How the daemon, its vaults, VMs and runs are; asks nobody, so it answers at once',
    params: none,
    result: daemonStatus,
    errors: [],
  },
  'daemon.reload': {
    summary: 'Reads the configuration again; one with problems is refused, and the old stays in force',
    params: none,
    result: z.object({
      changes: z.array(z.string()).meta({ description: 'what is different now, in words' }),
    }),
    errors: ['config-invalid'],
  },
  'config.get': {
    summary: 'The configuration in force, all defaults decided; without secrets',
    params: none,
    result: z.object({ file: z.string(), config: z.record(z.string(), z.unknown()) }),
    errors: [],
  },
  'rpc.discover': {
    summary: 'This description, as an OpenRPC document',
    params: none,
    result: z.record(z.string(), z.unknown()),
    errors: [],
  },
} as const satisfies Record<string, Method>;

const ofRun = z.object({ run });

/** What the server sends unasked, once run.subscribe was called. */
export const NOTIFICATIONS = {
  'run.progress': {
    summary:
      'A run is in another state or has come further: at most 5 times per second and run, and what a slow reader has not read is overtaken by what is newer',
    params: ofRun,
  },
  'run.finished': { summary: 'A run has ended', params: ofRun },
} as const;

function absolute(description: string) {
  return z
    .string()
    .regex(/^\//, 'must be an absolute path: the daemon has another working directory than you')
    .meta({ description });
}

export type MethodName = keyof typeof METHODS;
/** As a caller writes them. */
export type MethodParams<M extends MethodName> = z.input<(typeof METHODS)[M]['params']>;
export type MethodResult<M extends MethodName> = Json<(typeof METHODS)[M]['result']>;
export type NotificationName = keyof typeof NOTIFICATIONS;
export type NotificationParams<N extends NotificationName> = Json<(typeof NOTIFICATIONS)[N]['params']>;
