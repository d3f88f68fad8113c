/** domain-config.xml, which the original lays beside its images: what libvirt, where it runs the VM, knows of it. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** libvirt's own record of a running domain; a transient one, as CloudStack's are, has no other. */
const STATUS_FOLDERS = ['/run/libvirt/qemu', '/var/run/libvirt/qemu'];

/** By the name of their files; none where libvirt knows nothing. */
export async function domainFiles(
  instance: string,
  folders: readonly string[] = STATUS_FOLDERS,
): Promise<Record<string, string>> {
  if (instance.includes('/')) return {};
  for (const folder of folders) {
    const status = await readFile(join(folder, `${instance}.xml`), 'utf8').catch(() => '');
    const domain = /<domain[ >][\s\S]*<\/domain>/.exec(status)?.[0];
    if (domain !== undefined) return { 'domain-config.xml': `${withoutSecrets(domain)}\n` };
  }
  return {};
}

/** As `virsh dumpxml` leaves them out: the password of a console has no business on the NAS. */
function withoutSecrets(xml: string): string {
  return xml.replace(/ passwd=('[^']*'|"[^"]*")/g, '');
}
