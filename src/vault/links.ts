/**
 * Backing links. A qcow2 header is untrusted input: QEMU would follow a link to /etc/shadow, into `json:` or over
 * the network, as root. The only link a vault knows is to a disk's file in another point of the same VM.
 */
import { QmpvaultError } from '../base/errors.ts';
import { type PointId, pointId } from '../base/ids.ts';
import { diskFileName } from './layout.ts';

export interface BackingLink {
  readonly point: PointId;
  readonly file: string;
}

/** The link to write into a child's header; relative, so that a vault can be moved. @throws name-invalid */
export function backingLinkTo(point: PointId, file: string): string {
  return `../${pointId(point)}/${diskFileName(file)}`;
}

/**
 * Reads a link found in a header. The format must be named too: without it QEMU would probe, and a guest that
 * writes a qcow2 header into its raw disk would choose what is opened.
 * @param where the image that holds the link, for the message
 * @param point the point that holds the image; a link into itself is refused
 * @throws link-refused
 */
export function checkBackingLink({
  link,
  format,
  where,
  point,
}: {
  link: string;
  format: string | null;
  where: string;
  point: PointId;
}): BackingLink {
  const refuse = (problem: string, cause?: unknown) =>
    new QmpvaultError(
      'link-refused',
      `${where} names the backing file ${JSON.stringify(link)}, ${problem}. It is not opened: somebody changed the image.`,
      { details: { path: where, link, format, problem }, cause },
    );
  if (format !== 'qcow2') throw refuse(`whose format is ${format ?? 'not given'}, not qcow2`);
  const [up, folder, file, ...deeper] = link.split('/');
  if (up !== '..' || folder === undefined || file === undefined || deeper.length > 0) {
    throw refuse('which is not of the form ../<point>/<file>');
  }
  if (folder === point) throw refuse('which lies in the same point');
  try {
    return { point: pointId(folder), file: diskFileName(file) };
  } catch (error) {
    throw refuse('which has no valid name of a point and a file', error);
  }
}
