/** The programs that tests start: as they are published where scripts/test has made them so, else from their source. */
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '../..');
const PUBLISHED = process.env['QMPVAULT_TEST_PACKAGE'];

export const QMPVAULT = PUBLISHED ? join(PUBLISHED, 'dist/qmpvault.js') : join(ROOT, 'src/cli/main.ts');
export const NASBACKUP = join(PUBLISHED ?? ROOT, 'scripts/nasbackup');
