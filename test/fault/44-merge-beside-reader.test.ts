/** Row 44: points are merged while a restore reads them, and restored while they are merged. */

import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { codeOf } from '../../src/base/errors.ts';
import { vmName } from '../../src/base/ids.ts';
import type { Step } from '../../src/base/steps.ts';
import { type QemuTools, qemuTools } from '../../src/image/tools.ts';
import { restorePoint } from '../../src/restore/restore.ts';
import { type DeleteRequest, deletePoint } from '../../src/upkeep/delete.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { areSame } from '../helpers/images.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { assertAllPoints, upkeepEngine } from '../helpers/upkeep.ts';

const WEB1 = vmName('web1');
const P2: DeleteRequest = { vm: WEB1, point: 'p2', descendants: 'refuse' };

t.test('while a restore reads, a merge is refused with nothing begun, or waits for its end', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const folder = made.vault.vm('web1');
  const { tools, arrived, leave } = waitingQemuImg(t);
  const restored = restoreRight(t, made, tools);
  await arrived();
  await t.rejects(deletePoint(upkeepEngine(t), made.vault, P2), { code: 'vault-locked' });
  t.equal(await folder.readChange(), null);
  t.equal((await folder.points()).points.length, 3);
  const waiting = deletePoint(upkeepEngine(t), made.vault, { ...P2, waitMs: 30_000 });
  await leave();
  await restored;
  t.strictSame((await waiting).removed, ['p2']);
  await assertAllPoints(t, made, folder);
});

t.test('while points are merged, no reader gets in, and one that waits reads what it should', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const folder = made.vault.vm('web1');
  const met: Record<string, string> = {};
  let restored: Promise<void> | undefined;
  const steps = async (step: Step) => {
    if (step !== 'delete-journal') restored ??= restoreRight(t, made, qemuTools());
    const reader = await folder.registerReader({ what: 'a test' }).catch(codeOf);
    if (typeof reader !== 'string') await reader.close();
    met[step] ??= typeof reader === 'string' ? reader : 'reads';
  };
  await deletePoint(upkeepEngine(t, { steps }), made.vault, P2);
  await restored;
  const { 'delete-journal': before, ...later } = met;
  t.equal(before, 'reads', 'nothing was begun');
  t.strictSame([...new Set(Object.values(later))], ['vault-locked']);
  t.ok(Object.keys(later).length > 4, Object.keys(later).join(' '));
  await assertAllPoints(t, made, folder);
});

async function restoreRight(t: Test, made: HandMadeVault, tools: QemuTools): Promise<void> {
  const target = { dir: join(tempDir(t), 'out') };
  const { restored } = await restorePoint(tools, made.vault, {
    vm: WEB1,
    point: 'p3',
    format: 'raw',
    target,
  });
  for (const { disk, path } of restored) t.ok(areSame(path, made.truthFile('p3', disk)), disk);
}

/** Its first copy says that it is there, and waits until it may go on. */
function waitingQemuImg(t: Test): { tools: QemuTools; arrived(): Promise<unknown>; leave(): Promise<void> } {
  const dir = tempDir(t);
  execFileSync('mkfifo', [join(dir, 'arrived'), join(dir, 'leave')]);
  const qemuImg = join(dir, 'qemu-img');
  const script = `#!/bin/sh
if [ "$1" = convert ] && mkdir ${dir}/once 2>/dev/null; then echo >${dir}/arrived; read -r _ <${dir}/leave; fi
exec qemu-img "$@"
`;
  writeFileSync(qemuImg, script, { mode: 0o755 });
  return {
    tools: { ...qemuTools(), qemuImg },
    arrived: () => readFile(join(dir, 'arrived')),
    leave: () => writeFile(join(dir, 'leave'), '\n'),
  };
}
