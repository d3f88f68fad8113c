/** The names inside a vault. What is passing or internal begins with a dot, which no VM, point or disk may. */
import { fileName } from '../base/ids.ts';

export const VAULT_FILE = 'vault.json';
export const VM_FILE = 'vm.json';
export const LEASE_FILE = 'lease.json';
export const JOURNAL_FILE = 'journal.json';
export const READERS_FOLDER = 'readers';
export const HOLDS_FOLDER = 'holds';
export const MANIFEST_FILE = 'manifest.json';
export const VERIFIED_FILE = 'verified.json';
/** What the guest that was last booted from the point said on its serial console, and what it showed. */
export const BOOT_LOG_FILE = 'boot.log';
export const BOOT_SCREEN_FILE = 'boot.png';
/** Ids of points that were removed: never used again. */
export const RETIRED_FILE = '.retired.json';
/** In a staging folder: which run fills it. */
export const RUN_FILE = '.run.json';
export const STAGING_PREFIX = '.staging-';
export const REMOVED_PREFIX = '.removed-';
export const TEMPORARY_PREFIX = '.tmp-';

/** Folders that file servers and filesystems put everywhere. Dot names are left out anyway. */
const FURNITURE = new Set([
  '@eaDir',
  '#recycle',
  '#snapshot',
  '@Recycle',
  '@Recently-Snapshot',
  '$RECYCLE.BIN',
  'System Volume Information',
  'lost+found',
]);

/** Whether a folder in the vault can be a VM or a point at all. */
export function isCandidate(name: string): boolean {
  return !name.startsWith('.') && !FURNITURE.has(name);
}

/** What lies in a point beside its images. */
export const BESIDE_IMAGES: ReadonlySet<string> = new Set([
  MANIFEST_FILE,
  VERIFIED_FILE,
  BOOT_LOG_FILE,
  BOOT_SCREEN_FILE,
]);

/** Checks the name of a disk's file inside a point. @throws name-invalid */
export function diskFileName(file: string): string {
  return fileName(BESIDE_IMAGES.has(file) ? '' : file);
}
