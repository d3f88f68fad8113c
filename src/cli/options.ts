/** Arguments and options that several commands share, and how their texts are read. */
import { resolve } from 'node:path';
import { Argument, Option } from 'commander';
import { QmpvaultError } from '../base/errors.ts';
import { type DiskName, diskName, vmName } from '../base/ids.ts';

export function vmArgument(form: '<vm>' | '[vm]' = '<vm>'): Argument {
  return new Argument(form, 'the name of the VM in the vault').argParser((text) => vmName(text));
}

export function vaultOption(): Option {
  return new Option('--vault <dir>', 'the folder of the vault; without it the daemon is asked').argParser(
    folderOf,
  );
}

export function qmpOption(): Option {
  return new Option('--qmp <sock>', "the VM's QMP socket").argParser(socketOf);
}

export function imageOption(): Option {
  return new Option(
    '--disk <disk=image>',
    "a stopped VM's disk, where the vault does not know its image (can be repeated)",
  ).argParser(moreDiskPaths);
}

export function fullEveryOption(): Option {
  return new Option('--full-every <n>', 'begin a new full when a chain has so many points')
    .argParser(countOf)
    .default(undefined, '10');
}

export function pointArgument(): Argument {
  return new Argument('<point>', "its id, a unique beginning of it, or 'latest'");
}

/** For commands that change points. */
export function waitOption(): Option {
  return new Option(
    '--wait <seconds>',
    'wait so long for a backup, a restore or whoever else is at the points',
  )
    .argParser(countOf)
    .default(0);
}

export function breakLeaseOption(): Option {
  return new Option('--break-lease', 'whoever holds the lease of this VM is surely gone: take it over');
}

export function folderOf(text: string): string {
  return absolute(text, 'a folder');
}

export function fileOf(text: string): string {
  return absolute(text, 'a file');
}

export function socketOf(text: string): string {
  return absolute(text, 'a socket');
}

/** A whole number from 1 on. @throws usage */
export function countOf(text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new QmpvaultError('usage', `'${text}' is no count: write a whole number from 1 on`);
}

/** One more of an option that can be given several times. @throws name-invalid */
export function moreDisks(text: string, names: readonly DiskName[] = []): DiskName[] {
  return [...names, diskName(text)];
}

/** One more word of a list, whatever it looks like. */
export function moreWords(text: string, words: readonly string[] = []): string[] {
  return [...words, text];
}

/** One more `DISK=PATH`. @throws usage, name-invalid */
export function moreDiskPaths(
  text: string,
  paths: ReadonlyMap<DiskName, string> = new Map(),
): Map<DiskName, string> {
  const at = text.indexOf('=');
  if (at < 1) throw new QmpvaultError('usage', `'${text}' does not say where a disk is: write DISK=PATH`);
  const disk = diskName(text.slice(0, at));
  if (paths.has(disk)) throw new QmpvaultError('usage', `two paths for the disk ${disk}`);
  return new Map([...paths, [disk, absolute(text.slice(at + 1), `the disk ${disk}`)]]);
}

/** An empty path is a variable that the caller's script forgot to set; it must not mean the working directory. */
function absolute(text: string, what: string): string {
  if (text !== '') return resolve(text);
  throw new QmpvaultError('usage', `the path of ${what} is empty`);
}
