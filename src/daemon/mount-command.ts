/** How a share is mounted, and whether what is mounted already is that share. Pure. */
import type { MountConfig } from '../config/config.ts';
import type { Mounted } from '../image/mount-table.ts';

const FILESYSTEMS: Readonly<Record<MountConfig['type'], readonly string[]>> = {
  nfs: ['nfs', 'nfs4'],
  cifs: ['cifs', 'smb3'],
};

export function mountCommand(program: string, mount: MountConfig): [string, ...string[]] {
  const { type, source, point } = mount;
  const options = optionsOf(mount).filter((option) => !isPassword(option));
  // QEMU locks bytes of its images, and a server's locks of them are mandatory: it could not read what it wrote itself.
  if (type === 'cifs' && !options.includes('nobrl')) options.push('nobrl');
  return [program, '-t', type, ...(options.length > 0 ? ['-o', options.join(',')] : []), source, point];
}

/** Everybody on the host can read a command's arguments; mount.cifs(8) takes a password from its environment too. */
export function mountSecrets(mount: MountConfig): NodeJS.ProcessEnv {
  const password = optionsOf(mount).find(isPassword);
  return password === undefined ? {} : { PASSWD: password.slice(password.indexOf('=') + 1) };
}

/** null: it is what the configuration means. */
export function refusalOf(mounted: Mounted, { type, source, point }: MountConfig): string | null {
  const isSame =
    FILESYSTEMS[type].includes(mounted.fsType) && comparable(mounted.source) === comparable(source);
  return isSame ? null : `something else is mounted at ${point}: ${mounted.source} (${mounted.fsType})`;
}

function optionsOf({ options }: MountConfig): string[] {
  return (options?.reveal() ?? '')
    .split(',')
    .map((option) => option.trim())
    .filter((option) => option !== '');
}

function isPassword(option: string): boolean {
  return /^(pass|password)=/.test(option);
}

/** Servers' names know no case, SMB takes both slashes, and a slash at the end says nothing. */
function comparable(source: string): string {
  const slashed = source.replaceAll('\\', '/').replace(/\/+$/, '');
  const [host = ''] = /^(\/\/)?[^/:]*/.exec(slashed) ?? [];
  return host.toLowerCase() + slashed.slice(host.length);
}
