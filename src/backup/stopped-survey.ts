/** The survey of a stopped VM. */
import type { Writer } from '../image/writer.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { StoppedVm } from './find-vm.ts';
import type { StoppedImages } from './stopped-images.ts';
import { type Survey, type SurveyWishes, survey } from './survey.ts';

/** Leaves the images closed, and as they were. */
export async function surveyStopped(
  {
    folder,
    stopped,
    client,
    images,
  }: { folder: VmFolder; stopped: StoppedVm; client: Writer['client']; images: StoppedImages },
  wishes: SurveyWishes,
): Promise<Survey> {
  const { uuid, socket, left } = stopped;
  const disks = await images.open();
  const exclude = wishes.exclude?.filter((name) => !left.some((disk) => disk.name === name));
  const found = await survey(
    {
      client,
      uuid,
      socket,
      disks: async () => ({ disks, left }),
      // Nobody writes, or the run is discarded: the images can be read and exported as they are.
      whyNoSnapshot: async () => null,
      whyNoExport: async () => null,
      draw: (_, pattern) => images.openPattern(pattern),
    },
    folder,
    { ...wishes, withoutSnapshot: false, exclude },
  );
  await images.close();
  return found;
}
