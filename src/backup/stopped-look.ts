/** A look at the images of a stopped VM, without a run: nothing is locked, nothing stays. */
import { newRunId } from '../base/ids.ts';
import { refuseInUse } from '../image/image-bitmaps.ts';
import { Writer } from '../image/writer.ts';
import type { Engine } from './engine.ts';
import type { StoppedVm } from './find-vm.ts';
import { makeRunFolders, removeRunFolders, runFolders } from './run-folders.ts';
import { StoppedImages } from './stopped-images.ts';

/** @throws vm-busy when a VM uses them after all */
export async function lookAtImages<T>(
  engine: Pick<Engine, 'runtimeDir' | 'scratchDir' | 'tools'>,
  { images }: StoppedVm,
  signal: AbortSignal | undefined,
  look: (images: StoppedImages, client: Writer['client']) => Promise<T>,
): Promise<T> {
  const { tools } = engine;
  for (const { image, format } of images) await refuseInUse(tools, { path: image, format });
  const run = newRunId();
  const folders = runFolders(engine, run);
  let daemon: Writer | undefined;
  try {
    await makeRunFolders(folders, { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 });
    daemon = await Writer.start({ tools, dir: folders.writer, diesWithUs: true, signal });
    const { client } = daemon;
    return await look(new StoppedImages({ tools, client, run, images, scratch: folders.scratch }), client);
  } finally {
    await daemon?.kill();
    await removeRunFolders(folders);
  }
}
