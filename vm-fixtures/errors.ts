/** What goes wrong in the fixtures themselves, told apart from what goes wrong in the engine under test. */
export type FixtureErrorCode =
  /** a QEMU binary or the guest's image is not there: scripts/setup makes them */
  | 'fixture-missing'
  /** QEMU did not start */
  | 'vm-start'
  /** a read or write through a device failed: the guest would have seen this error */
  | 'guest-io'
  /** something did not happen before its deadline */
  | 'fixture-timeout';

export class FixtureError extends Error {
  override readonly name = 'FixtureError';
  readonly code: FixtureErrorCode;

  constructor(code: FixtureErrorCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
  }
}
