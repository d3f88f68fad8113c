/**
 * The error tree of this room. `code` says what the caller may do next: connect again, send the command again
 * (`qmp-closed`: it was not sent), or first find out what happened (`qmp-outcome-unknown`, `qmp-timeout`).
 */

export type QmpErrorCode =
  | 'qmp-connect'
  | 'qmp-no-greeting'
  | 'qmp-protocol'
  | 'qmp-command'
  | 'qmp-outcome-unknown'
  | 'qmp-closed'
  | 'qmp-timeout'
  | 'qmp-job'
  | 'qmp-agent'
  | 'qmp-aborted';

export type QmpErrorDetails = Readonly<Record<string, unknown>>;

export class QmpError extends Error {
  override readonly name: string = 'QmpError';
  readonly code: QmpErrorCode;
  readonly details: QmpErrorDetails;

  constructor(
    code: QmpErrorCode,
    message: string,
    { details = {}, cause }: { details?: QmpErrorDetails; cause?: unknown } = {},
  ) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.details = details;
  }
}

/** QEMU answered with an error: the connection is usable, the command did not happen. */
export class QmpCommandError extends QmpError {
  override readonly name = 'QmpCommandError';
  readonly command: string;
  /** QEMU's own class; `GenericError` for nearly everything, so that only `CommandNotFound` and few others tell. */
  readonly errorClass: string;
  readonly description: string;

  constructor(command: string, errorClass: string, description: string) {
    super('qmp-command', `QEMU refused ${command}: ${description}`, {
      details: { command, class: errorClass, description },
    });
    this.command = command;
    this.errorClass = errorClass;
    this.description = description;
  }
}
