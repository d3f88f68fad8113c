/** What a backup may leave of itself while its VM is stopped. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';
import { imageInfo } from '../../src/image/qemu-img.ts';
import type { FixtureVm } from '../../vm-fixtures/guestless.ts';
import type { TestSite } from './engine.ts';

/** Every qcow2 of a stopped VM carries `bitmaps` of ours, usable, and nothing else is left anywhere. */
export async function expectCleanImages(
  t: Test,
  { engine, vault }: TestSite,
  vm: FixtureVm,
  { bitmaps }: { bitmaps: number },
): Promise<void> {
  for (const { name, image, format } of vm.disks) {
    if (format === 'raw') continue;
    const found = await imageInfo(engine.tools, { path: image, format });
    t.strictSame(
      found.bitmaps.map(({ flags }) => flags),
      Array<string[]>(bitmaps).fill(['auto']),
      `${name} carries ${bitmaps} bitmap(s), none of them in use`,
    );
  }
  const folders = [engine.runtimeDir, engine.scratchDir, join(engine.stateDir, 'runs')];
  const names = await Promise.all(folders.map((folder) => readdir(folder).catch(() => [])));
  t.strictSame(names.flat(), [], 'no folder, socket or journal of a run');
  const staging = (await readdir(join(vault.path, 'vm1'))).filter((name) => /^\.staging|^lease/.test(name));
  t.strictSame(staging, [], 'no staging, no lease');
}
