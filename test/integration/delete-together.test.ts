import { spawn } from 'node:child_process';
import { once } from 'node:events';
import t from 'tap';
import type { VmName } from '../../src/base/ids.ts';
import { endLeftoverTools } from '../../src/image/leftover-tools.ts';
import { type DeleteRequest, deletePoint } from '../../src/upkeep/delete.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { signalIfThere } from '../helpers/temp-dir.ts';
import { assertAllPoints, upkeepEngine } from '../helpers/upkeep.ts';

const P2: DeleteRequest = { vm: 'web1' as VmName, point: 'p2', descendants: 'refuse' };

t.test('two deletes at once: one is refused, or waits for the other', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const arrived = Promise.withResolvers<void>();
  const leave = Promise.withResolvers<void>();
  const steps = async (step: string) => {
    if (step !== 'delete-journal') return;
    arrived.resolve();
    await leave.promise;
  };
  const first = deletePoint(upkeepEngine(t, { steps }), made.vault, P2);
  await arrived.promise;
  const p3 = { ...P2, point: 'p3' };
  await t.rejects(deletePoint(upkeepEngine(t), made.vault, p3), { code: 'vault-locked' });
  const second = deletePoint(upkeepEngine(t), made.vault, { ...p3, waitMs: 30_000 });
  leave.resolve();
  t.strictSame((await first).removed, ['p2']);
  t.strictSame((await second).removed, ['p3']);
  await assertAllPoints(t, made, made.vault.vm('web1'));
});

t.test('while somebody reads, a delete is refused with nothing begun, or waits for the end', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const folder = made.vault.vm('web1');
  const reader = await folder.registerReader({ what: 'a test' });
  await t.rejects(deletePoint(upkeepEngine(t), made.vault, P2), { code: 'vault-locked' });
  t.equal(await folder.readChange(), null);
  t.equal((await folder.points()).points.length, 3);
  const waiting = deletePoint(upkeepEngine(t), made.vault, { ...P2, waitMs: 30_000 });
  await reader.close();
  t.strictSame((await waiting).removed, ['p2']);
  await assertAllPoints(t, made, folder);
});

t.test('what still writes for a dead engine is ended first; what reads is left alone', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const folder = made.vault.vm('web1').path;
  const start = async (...args: string[]) => {
    // Stands for one that hangs: it would wait for its input for ever.
    const child = spawn('/bin/sh', ['-c', 'read -r line', 'qemu-img', ...args, `${folder}/p2/vda.qcow2`]);
    t.teardown(() => child.pid && signalIfThere(child.pid, 'SIGKILL'));
    await once(child, 'spawn');
    return child;
  };
  const [commit, convert] = [await start('commit', '-d'), await start('convert', '-O', 'raw')];
  const ended = once(commit, 'exit');
  await endLeftoverTools(folder);
  t.strictSame(await ended, [null, 'SIGKILL']);
  t.equal(convert.signalCode, null);
});
