/**
 * Looks at every image of a chain before qemu-img does. Whoever can write to the NAS can write a qcow2 header that
 * names any file of this host, or put a symbolic link in the place of an image; qemu-img, run as root, would read
 * it into the restored disk. So nothing is opened by QEMU that is not exactly what the manifests say.
 */
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type ErrorCode, errnoOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { type Qcow2Header, readQcow2Header } from '../image/qcow2-header.ts';
import { checkBackingLink } from '../vault/links.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { DiskPlan, Layer } from './restore-plan.ts';

/**
 * The VM's folder without symbolic links: the vault may be reached through some, its inside may not.
 * @throws link-refused, vault-unreadable
 */
export async function realFolder(vm: VmFolder): Promise<string> {
  const [vault, real] = await Promise.all([fs.realpath(dirname(vm.path)), fs.realpath(vm.path)]).catch(
    (error: unknown) => {
      throw unreadable(vm.path, error);
    },
  );
  if (real === join(vault, vm.name)) return real;
  throw refusal('link-refused', vm.path, `is a symbolic link to ${real}`);
}

/**
 * @param folder the VM's, without symbolic links
 * @returns the image to give to qemu-img
 * @throws link-refused, image-invalid, vault-unreadable
 */
export async function checkChain(folder: string, { disk, layers }: DiskPlan): Promise<string> {
  const paths: string[] = [];
  for (const layer of layers) {
    const path = join(folder, layer.point, layer.file);
    await checkFile(path, layer);
    checkHeader(path, layer, await readQcow2Header(path));
    paths.push(path);
  }
  const [top] = paths;
  if (top === undefined) throw new QmpvaultError('internal', `the disk ${disk} has no images`);
  return top;
}

async function checkFile(path: string, layer: Layer): Promise<void> {
  try {
    const real = await fs.realpath(path);
    if (real !== path) throw refusal('link-refused', path, `is a symbolic link to ${real}`);
    // Not a device or a FIFO either: opening one can have effects, and reading from one never ends.
    const found = await fs.stat(path);
    if (!found.isFile()) throw refusal('image-invalid', path, 'is no regular file');
    // QEMU reads zeroes behind the end of a file: a cut-off image would be restored with holes, in silence.
    if (found.size < layer.storedBytes) {
      const sizes = `is cut off: it has ${found.size} bytes, its manifest says ${layer.storedBytes}`;
      throw refusal('image-invalid', path, sizes);
    }
  } catch (error) {
    if (error instanceof QmpvaultError) throw error;
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') {
      throw refusal(
        'image-invalid',
        path,
        'is missing',
        `Point ${layer.point} and what builds on it are lost.`,
      );
    }
    if (errno === 'ELOOP') throw refusal('link-refused', path, 'is a symbolic link that leads nowhere');
    throw unreadable(path, error);
  }
}

function checkHeader(path: string, { point, virtualSizeBytes, backing }: Layer, header: Qcow2Header): void {
  if (header.externalData) throw refusal('link-refused', path, 'keeps its data in another file');
  const found =
    header.backingLink === null
      ? null
      : checkBackingLink({ link: header.backingLink, format: header.backingFormat, where: path, point });
  if (found?.point !== backing?.point || found?.file !== backing?.file) {
    const name = (link: typeof found) =>
      link ? `the backing file ../${link.point}/${link.file}` : 'no backing file';
    throw refusal('link-refused', path, `has ${name(found)}, where its manifest says ${name(backing)}`);
  }
  if (header.encrypted) throw refusal('image-invalid', path, 'is encrypted');
  if (header.corrupt) throw refusal('image-invalid', path, 'is marked as corrupt');
  if (header.virtualSizeBytes !== virtualSizeBytes) {
    const sizes = `has ${header.virtualSizeBytes} bytes, where its manifest says ${virtualSizeBytes}`;
    throw refusal('image-invalid', path, sizes);
  }
}

function refusal(
  code: ErrorCode,
  path: string,
  problem: string,
  then = 'Nothing was restored.',
): QmpvaultError {
  return new QmpvaultError(code, `${path} ${problem}. ${then}`, { details: { path, problem } });
}

function unreadable(path: string, error: unknown): QmpvaultError {
  return new QmpvaultError('vault-unreadable', `cannot look at ${path}: ${messageOf(error)}`, {
    details: { path, errno: errnoOf(error) ?? null },
    cause: error,
  });
}
