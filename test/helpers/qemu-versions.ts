/** Which QEMUs the tests run against. */
import type { QemuVersion } from '../../vm-fixtures/guestless.ts';

/** Those with copy-before-write; 5.2 is for the tests of the weaker way only. */
const DEFAULT: readonly QemuVersion[] = ['7.2', '10.0', '11.1'];

/** What the caller can run on, limited by `QMPVAULT_TEST_QEMU=7.2,11.1`. */
export function qemuVersions(wanted: readonly QemuVersion[] = DEFAULT): QemuVersion[] {
  const limit = process.env['QMPVAULT_TEST_QEMU']?.split(',');
  return wanted.filter((version) => limit?.includes(version) ?? true);
}
