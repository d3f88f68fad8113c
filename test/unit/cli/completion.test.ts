import { execa } from 'execa';
import { type Test, test } from 'tap';
import { runCli } from '../../helpers/command-line.ts';

/** What bash would offer for the last word. */
async function offered(script: string, ...words: string[]): Promise<string[]> {
  const ask = `COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _qmpvault; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout } = await execa('bash', ['-c', `${script}\n${ask}`, 'bash', ...words]);
  return stdout.split('\n').filter((word) => word !== '');
}

async function scriptFor(t: Test, shell: string): Promise<string> {
  const { code, stdout } = await runCli(['completion', shell]);
  t.equal(code, 0);
  return stdout;
}

test('bash completes commands, their options, and values that are one of a few', async (t) => {
  const script = await scriptFor(t, 'bash');
  const complete = (...words: string[]) => offered(script, 'qmpvault', ...words);
  t.same(await complete('rest'), ['restore']);
  t.same(await complete('--json', 'ba'), ['backup']);
  t.same(await complete('restore', 'web1', '--for'), ['--format', '--force']);
  t.same(await complete('restore', '--format', ''), ['qcow2', 'raw']);
  t.same(await complete('restore', '--to', ''), [], 'a path, which the shell knows itself');
  t.same(await complete('config', 'ch'), ['check']);
  t.same(await complete('config', 'check', '--con'), ['--config']);
  t.same(await complete('completion', 'z'), ['zsh']);
  t.notOk((await complete('backup', '--')).includes('--stall-ms'), 'what is hidden stays so');
});

test('every shell gets every command', async (t) => {
  const commands = (await runCli(['--help'])).stdout.matchAll(/^ {2}([a-z][a-z-]*) /gm);
  const names = [...commands].map(([, name]) => name ?? '').filter((name) => name !== 'help');
  t.ok(names.length > 10);
  for (const shell of ['bash', 'zsh', 'fish']) {
    const script = await scriptFor(t, shell);
    for (const name of names) t.match(script, new RegExp(`\\b${name}\\b`), `${shell}: ${name}`);
  }
});

test('no other shell is pretended to be known', async (t) => {
  t.match(await runCli(['completion', 'tcsh']), { code: 2 });
});
