/** Row 34: the host of a lease's owner is dead. Here it is another pid namespace, of which nothing can be proved either. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, utimesSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import t, { type Test } from 'tap';
import { vmName } from '../../src/base/ids.ts';
import type { Step } from '../../src/base/steps.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import { TERM_MS } from '../../src/vault/claim.ts';
import type { VmFolder } from '../../src/vault/vm-folder.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { signalIfThere } from '../helpers/temp-dir.ts';
import { assertAllPoints, copyVault, upkeepEngine } from '../helpers/upkeep.ts';

const P3 = { vm: vmName('web1'), point: 'p3', descendants: 'refuse' } as const;

t.test('a lease is taken over when its term has passed, and not before', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const folder = made.vault.vm('web1');
  await dieElsewhere(t, folder);
  await t.rejects(deletePoint(upkeepEngine(t), made.vault, P3), { code: 'vault-locked' });
  await assertAllPoints(t, made, folder);
  passTerm(folder);
  t.strictSame((await deletePoint(upkeepEngine(t), made.vault, P3)).removed, ['p3']);
  await assertAllPoints(t, made, folder);
});

t.test('in the middle of a change it is taken over only on the operator’s word', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const { vault } = await copyVault(t, made);
  const folder = vault.vm('web1');
  const steps = async (step: Step) => {
    if (step === 'delete-switch') throw new Error('the end of this engine');
  };
  const p2 = { ...P3, point: 'p2' };
  await t.rejects(deletePoint(upkeepEngine(t, { steps }), vault, p2), { message: 'the end of this engine' });
  t.ok(await folder.readChange(), 'a change is open');
  await dieElsewhere(t, folder);
  passTerm(folder);
  await t.rejects(deletePoint(upkeepEngine(t), vault, P3), { code: 'vault-locked' });
  await assertAllPoints(t, made, folder);
  t.strictSame((await deletePoint(upkeepEngine(t), vault, { ...P3, breakLease: true })).removed, ['p3']);
  t.equal(await folder.readChange(), null, 'what it had begun is finished');
  t.strictSame(
    (await folder.points()).points.map(({ id }) => id as string),
    ['p1'],
  );
  await assertAllPoints(t, made, folder);
});

async function dieElsewhere(t: Test, folder: VmFolder): Promise<void> {
  const holder = join(import.meta.dirname, '../helpers/lease-holder.ts');
  const args = ['--pid', '--fork', '--kill-child=KILL', process.execPath, holder, folder.path];
  const child = spawn('unshare', args, { stdio: ['pipe', 'pipe', 'inherit'] });
  t.teardown(() => child.pid && signalIfThere(child.pid, 'SIGKILL'));
  const [said] = await once(createInterface(child.stdout), 'line');
  t.equal(said, 'ok', 'it holds the lease');
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
  t.ok(existsSync(join(folder.path, 'lease.json')), 'and left it');
}

function passTerm(folder: VmFolder): void {
  const at = new Date(Date.now() - TERM_MS - 1_000);
  utimesSync(join(folder.path, 'lease.json'), at, at);
}
