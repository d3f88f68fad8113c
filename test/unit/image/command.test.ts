import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { runCommand } from '../../../src/image/command.ts';
import { deathOf } from '../../helpers/death.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

const sh = (script: string, timeoutMs = 10_000) =>
  runCommand(['/bin/sh', '-c', script], { timeoutMs, env: { WHO: 'web1' }, input: 'the input' });

t.test('a command is told by its exit code and the end of what it wrote', async (t) => {
  t.match(await sh('cat; echo " for $WHO" >&2; exit 3'), {
    exitCode: 3,
    output: 'the input for web1',
    timedOut: false,
  });
  t.match(await sh('exec <&-; exit 0'), { exitCode: 0, output: '' }, 'it need not read its stdin');
  t.match(await sh('kill -9 $$'), { exitCode: null, timedOut: false });
  const { output } = await sh('yes | head -c 100000; echo end');
  t.ok(output.length <= 16 * 1024 && output.endsWith('end'));
});

t.test('one that cannot be started is told like one that failed', async (t) => {
  const result = await runCommand(['/nowhere/program'], { timeoutMs: 10_000 });
  t.match(result, { exitCode: null, output: /ENOENT/, timedOut: false });
  await result.gone;
});

t.test('one that takes too long is killed with all that it started', async (t) => {
  const dir = tempDir(t);
  const result = await sh(`sleep 1000 & echo $! >${join(dir, 'child')}; echo started; wait`, 300);
  t.match(result, { exitCode: null, output: 'started', timedOut: true });
  await result.gone;
  await deathOf(Number(readFileSync(join(dir, 'child'), 'utf8')));
});

t.test('one that leaves something behind with its output open is not waited for', async (t) => {
  const dir = tempDir(t);
  const start = performance.now();
  t.match(await sh(`cd ${dir}; sleep 1000 & exit 0`), { exitCode: 0, timedOut: false });
  t.ok(performance.now() - start < 5_000);
});
