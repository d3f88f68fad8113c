/**
 * The error tree. One class; the literal `code` says which error it is, and CODES, the one table, says what
 * a caller may do about it: the exit code of the command line and the number on the JSON-RPC wire.
 * Tests and scripts match `code`, never the text. `details` is plain JSON.
 *
 * qmp/ keeps its own small tree, since it could be published alone; its codes are rows of this table too.
 */

/** Exit codes of the command line; fixed points, others script against them. */
export const EXIT = {
  done: 0,
  unexpected: 1,
  usage: 2,
  missing: 3,
  vm: 4,
  run: 5,
  vault: 6,
  damage: 7,
  refused: 8,
  cancelled: 130,
} as const;

/** code: [exit code, JSON-RPC number, meaning]. JSON-RPC numbers are never reused. */
export const CODES = {
  internal: [EXIT.unexpected, -32603, 'a defect of qmpvault'],

  usage: [EXIT.usage, -32602, 'the call itself is wrong'],
  'name-invalid': [EXIT.usage, -32001, 'a name of a VM, disk or point that cannot stand in a path'],
  'path-too-long': [EXIT.usage, -32002, 'a unix socket path of more than 107 bytes'],
  'target-exists': [EXIT.usage, -32003, 'a restore target exists and force was not given'],
  'config-invalid': [EXIT.usage, -32009, 'the configuration cannot be read or says what is not allowed'],
  'target-unfit': [EXIT.usage, -32004, 'a restore target cannot take the disk'],
  'request-conflict': [EXIT.usage, -32005, 'this requestId stands for another wish already'],
  'socket-unfit': [EXIT.usage, -32006, 'the RPC socket cannot be served at this path, or not for this group'],
  'rpc-no-json': [EXIT.usage, -32700, 'a line that is no JSON, too long or nested too deep'],
  'rpc-no-request': [EXIT.usage, -32600, 'JSON that is no request of JSON-RPC 2.0'],
  'method-unknown': [EXIT.usage, -32601, 'no such method'],

  'vault-missing': [EXIT.missing, -32010, 'no vault at this path'],
  'vm-unknown': [EXIT.missing, -32011, 'no such VM'],
  'point-unknown': [EXIT.missing, -32012, 'no such restore point'],
  'disk-unknown': [EXIT.missing, -32013, 'no such disk'],
  'run-unknown': [EXIT.missing, -32014, 'no such run, or it ended so long ago that it is forgotten'],
  'export-unknown': [EXIT.missing, -32015, 'nothing is served under this id'],
  'vault-unknown': [EXIT.missing, -32016, 'no vault of this name in the configuration'],

  'vm-unreachable': [EXIT.vm, -32020, 'nothing answers on the QMP socket'],
  'vm-busy': [EXIT.vm, -32021, 'the QMP socket is in use, or a job of somebody else runs on a disk'],
  'vm-state': [EXIT.vm, -32022, 'the state of the VM forbids a backup'],
  'vm-unfit': [EXIT.vm, -32023, 'this QEMU or this disk cannot be backed up'],
  'vm-uuid': [EXIT.vm, -32024, 'a VM of this name but with another UUID is in the vault'],
  'vm-left-unclean': [EXIT.vm, -32025, 'something of ours is left in the VM and could not be removed'],
  'vm-nbd-taken': [EXIT.vm, -32027, 'the NBD server of the VM serves somebody else'],
  'vm-agent': [EXIT.vm, -32026, 'the guest agent did not do what was required'],
  'run-busy': [EXIT.vm, -32028, 'another run of this VM is queued or at work'],

  'run-failed': [EXIT.run, -32030, 'a block job failed'],
  'run-stalled': [EXIT.run, -32031, 'a job made no progress: the NAS hangs'],
  'run-overtaken': [EXIT.run, -32032, 'the VM changed under the run: migrated, resized, snapshot broken'],
  'vm-lost': [EXIT.run, -32033, 'the connection to the VM ended during the run'],
  'writer-failed': [EXIT.run, -32034, 'qemu-storage-daemon did not start or died'],
  'image-tool-failed': [EXIT.run, -32035, 'qemu-img failed'],
  'image-invalid': [EXIT.run, -32036, 'an image is damaged or not what it should be'],
  'scratch-full': [EXIT.run, -32037, 'scratch space ran out, or would'],
  'sync-failed': [EXIT.run, -32038, 'fsync failed: what was written may be lost'],
  'restore-failed': [EXIT.run, -32039, 'a restore could not be completed'],
  'worker-lost': [EXIT.run, -32043, 'the process that did the work died again and again'],
  'state-unwritable': [EXIT.run, -32041, 'the state folder of this host cannot be written'],
  'guard-failed': [EXIT.run, -32040, 'the process that guards a pause did not start, died, or had to act'],
  'boot-failed': [EXIT.run, -32042, 'the VM that a point was to be tried out in did not start'],

  'vault-full': [EXIT.vault, -32050, 'no space left in the vault'],
  'vault-locked': [EXIT.vault, -32051, 'somebody else changes the points of this VM'],
  'vault-unreadable': [EXIT.vault, -32052, 'the vault cannot be read or written'],
  'vault-away': [EXIT.vault, -32053, 'a vault is remembered at this path, and it is not there: not mounted?'],
  'vault-format': [EXIT.vault, -32054, 'the vault was written by a newer qmpvault'],
  'manifest-invalid': [EXIT.vault, -32055, 'a manifest cannot be read'],
  'lease-lost': [EXIT.vault, -32056, 'the lease was taken over by somebody else'],

  'damage-found': [EXIT.damage, -32060, 'verification found damage'],
  'link-refused': [EXIT.damage, -32061, 'an image in the vault names a backing file outside it'],

  'points-would-be-lost': [EXIT.refused, -32070, 'refused: restore points would be lost'],
  'vault-known': [EXIT.refused, -32071, 'refused: another vault is known at this path or to this VM'],
  'point-held': [EXIT.refused, -32073, 'refused: files outside of the vault stand on the point'],
  'point-exists': [EXIT.refused, -32072, 'refused: a point of this name exists, or existed'],

  cancelled: [EXIT.cancelled, -32080, 'cancelled'],

  'daemon-unreachable': [EXIT.unexpected, -32081, 'no daemon answers on its socket; nothing was asked'],
  'daemon-busy': [
    EXIT.unexpected,
    -32082,
    'too many clients, requests or subscriptions: refused, nothing was done',
  ],
  'daemon-running': [EXIT.unexpected, -32086, 'another daemon works with the same state folder'],
  'daemon-stopping': [EXIT.unexpected, -32083, 'the daemon ends, no run begins any more'],
  'daemon-lost': [EXIT.run, -32084, 'the connection to the daemon ended before the answer: done or not done'],
  'daemon-timeout': [EXIT.run, -32085, 'the daemon did not answer in time: done or not done'],

  // qmp/errors.ts
  'qmp-connect': [EXIT.vm, -32090, 'cannot connect to a QMP socket'],
  'qmp-no-greeting': [EXIT.vm, -32091, 'connected, but no greeting: another client holds this socket'],
  'qmp-protocol': [EXIT.vm, -32092, 'the peer does not speak QMP'],
  'qmp-command': [EXIT.run, -32093, 'QEMU refused a command'],
  'qmp-outcome-unknown': [EXIT.run, -32094, 'the connection was lost before the reply: done or not done'],
  'qmp-closed': [EXIT.run, -32095, 'the connection is closed; the command was not sent'],
  'qmp-timeout': [EXIT.run, -32096, 'no reply in time'],
  'qmp-job': [EXIT.run, -32097, 'a job ended with an error'],
  'qmp-agent': [EXIT.vm, -32098, 'the guest agent does not answer or refuses'],
  'qmp-aborted': [EXIT.cancelled, -32099, 'cancelled by the caller'],
} as const satisfies Record<string, readonly [number, number, string]>;

export type ErrorCode = keyof typeof CODES;
export type Details = Readonly<Record<string, unknown>>;

export class QmpvaultError extends Error {
  override readonly name = 'QmpvaultError';
  readonly code: ErrorCode;
  readonly details: Details;

  /** @param message what happened, to which VM, disk or file, and what to do next */
  constructor(
    code: ErrorCode,
    message: string,
    { details = {}, cause }: { details?: Details; cause?: unknown } = {},
  ) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.details = details;
  }
}

/** The code of any error that carries one of ours, from this tree or that of qmp/; else `internal`. */
export function codeOf(error: unknown): ErrorCode {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' && Object.hasOwn(CODES, code) ? (code as ErrorCode) : 'internal';
}

export function exitCodeOf(error: unknown): number {
  return CODES[codeOf(error)][0];
}

/** The system's own errno name (`ENOSPC`), found anywhere in the chain of causes. */
export function errnoOf(error: unknown): string | undefined {
  for (let e = error; e instanceof Error; e = e.cause) {
    if ('code' in e && typeof e.code === 'string' && /^E[A-Z0-9]+$/.test(e.code)) return e.code;
  }
  return undefined;
}

/** What an error looks like as JSON: in `--json` output, in JSON-RPC's `error.data` and in a run's record. */
export function errorJson(error: unknown): { code: ErrorCode; message: string; details: Details } {
  const details = error instanceof Error && 'details' in error ? (error.details as Details) : {};
  return { code: codeOf(error), message: messageOf(error), details };
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
