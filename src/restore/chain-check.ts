/**
 * Looks at every image of a chain before qemu-img does. Whoever can write to the NAS can write a qcow2 header that
 * names any file of this host, or put a symbolic link in the place of an image; qemu-img, run as root, would read
 * it into the restored disk. So nothing is opened by QEMU that is not exactly what the manifests say.
 */
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type ErrorCode, errnoOf, messageOf, QmpvaultError } from '../base/errors.ts';
import { type Qcow2Header, readQcow2Header } from '../image/qcow2-header.ts';
import type { DiskFile } from '../vault/change.ts';
import { backingLinkTo, checkBackingLink } from '../vault/links.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { DiskChain, Layer } from './restore-plan.ts';

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
export async function checkChain(folder: string, { disk, layers }: DiskChain): Promise<string> {
  const [top] = layers;
  if (top === undefined) throw new QmpvaultError('internal', `the disk ${disk} has no images`);
  // Each at most once: what is left gets less, and a loop has an end.
  const left = new Set(layers);
  for (let layer = top; ; ) {
    left.delete(layer);
    const path = join(folder, layer.point, layer.file);
    await checkFile(path, layer);
    const backing = checkHeader(path, layer, await readQcow2Header(path));
    if (backing === null) return join(folder, top.point, top.file);
    const next = [...left].find(({ point, file }) => point === backing.point && file === backing.file);
    if (next === undefined) {
      throw refusal('manifest-invalid', path, `stands on ${name(backing)}, of which there is no manifest`);
    }
    layer = next;
  }
}

async function checkFile(path: string, layer: Layer): Promise<void> {
  try {
    const real = await fs.realpath(path);
    if (real !== path) throw refusal('link-refused', path, `is a symbolic link to ${real}`);
    // Not a device or a FIFO either: opening one can have effects, and reading from one never ends.
    const found = await fs.stat(path);
    if (!found.isFile()) throw refusal('image-invalid', path, 'is no regular file');
    // QEMU reads zeroes behind the end of a file: a cut-off image would be restored with holes, in silence.
    if (layer.storedBytes !== null && found.size < layer.storedBytes) {
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

/** @returns the backing file that it names */
function checkHeader(
  path: string,
  { point, virtualSizeBytes, backings }: Layer,
  header: Qcow2Header,
): DiskFile | null {
  if (header.externalData) throw refusal('link-refused', path, 'keeps its data in another file');
  const found =
    header.backingLink === null
      ? null
      : checkBackingLink({ link: header.backingLink, format: header.backingFormat, where: path, point });
  if (!backings.some((backing) => found?.point === backing?.point && found?.file === backing?.file)) {
    const said = backings.map(name).join(' or ');
    throw refusal('link-refused', path, `stands on ${name(found)}, where its manifest says on ${said}`);
  }
  if (header.encrypted) throw refusal('image-invalid', path, 'is encrypted');
  if (header.corrupt) throw refusal('image-invalid', path, 'is marked as corrupt');
  if (virtualSizeBytes !== null && header.virtualSizeBytes !== virtualSizeBytes) {
    const sizes = `has ${header.virtualSizeBytes} bytes, where its manifest says ${virtualSizeBytes}`;
    throw refusal('image-invalid', path, sizes);
  }
  return found;
}

function name(file: DiskFile | null): string {
  return file === null ? 'no backing file' : backingLinkTo(file.point, file.file);
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
