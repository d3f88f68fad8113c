/** What still writes for a dead engine. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import t from 'tap';
import { endLeftoverTools } from '../../src/image/leftover-tools.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { signalIfThere } from '../helpers/temp-dir.ts';

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
