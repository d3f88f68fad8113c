import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import t, { type Test } from 'tap';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { QMPVAULT } from '../helpers/programs.ts';
import { assertAllPoints } from '../helpers/upkeep.ts';

async function site(t: Test) {
  const made = await HandMadeVault.withChain(t);
  const env = {
    QMPVAULT_STATE_DIR: join(made.dir, 'state'),
    QMPVAULT_RUNTIME_DIR: join(made.dir, 'run'),
    QMPVAULT_SCRATCH_DIR: join(made.dir, 'scratch'),
  };
  const cli = async (command: string, ...args: string[]) => {
    const all = [QMPVAULT, command, ...args, '--vault', made.vault.path];
    const { exitCode, stdout, stderr } = await execa(process.execPath, all, { env, reject: false });
    return { exitCode, stdout, stderr, json: () => JSON.parse(stdout) };
  };
  return { made, cli };
}

t.test('delete: a full with descendants only when it is said what becomes of them', async (t) => {
  const { made, cli } = await site(t);
  const refused = await cli('delete', 'web1', 'p1', '--json');
  t.equal(refused.exitCode, 8);
  t.match(refused.json(), {
    error: { code: 'points-would-be-lost', details: { descendants: ['p2', 'p3'] } },
  });
  const done = await cli('delete', 'web1', 'p1', '--keep-descendants', '--json');
  t.equal(done.exitCode, 0, done.stderr);
  t.match(done.json(), { removed: ['p1'], changed: [{ id: 'p2', kind: 'full', parent: null }] });
  await assertAllPoints(t, made, made.vault.vm('web1'));
  t.match(await cli('delete', 'web1', 'p1'), { exitCode: 3 });
  t.match(await cli('delete', 'web1', 'p2', '--with-descendants'), {
    exitCode: 0,
    stdout: 'web1: p3 is deleted\nweb1: p2 is deleted\n',
  });
});

t.test('prune and protect', async (t) => {
  const { made, cli } = await site(t);
  t.match(await cli('prune', 'web1'), { exitCode: 2 });
  t.match(await cli('prune', 'web1', '--keep-last', '0'), { exitCode: 2 });
  t.match((await cli('protect', 'web1', 'p2', '--json')).json(), { point: { id: 'p2', protected: true } });
  const told = (await cli('prune', 'web1', '--keep-last', '1', '--dry-run', '--json')).json();
  t.match(told, {
    dryRun: true,
    removed: ['p1'],
    kept: [{ id: 'p3' }, { id: 'p2', reasons: ['protected'] }],
  });
  const done = await cli('prune', 'web1', '--keep-last', '1');
  t.match(done, { exitCode: 0, stdout: /deleted +p1/ });
  t.match(await cli('delete', 'web1', 'p2', '--keep-descendants'), { exitCode: 8 });
  await assertAllPoints(t, made, made.vault.vm('web1'));
});

t.test('verify: 0 when all is well, 7 with what is damaged, in the same form', async (t) => {
  const { made, cli } = await site(t);
  t.match((await cli('verify', '--deep', '--json')).json(), { checked: 3, damaged: [] });
  rmSync(made.file('p2', 'vda'));
  const found = await cli('verify', 'web1', '--json');
  t.equal(found.exitCode, 7);
  t.match(found.json(), {
    checked: 3,
    damaged: [{ vm: 'web1', point: 'p2', disk: 'vda', affects: ['p2', 'p3'] }],
  });
  t.match(await cli('verify', 'web1', 'p1'), { exitCode: 0, stdout: /^1 points checked/ });
});

t.test('verify --boot: 7 for a point from which nothing comes up, with what to look at', async (t) => {
  const { cli } = await site(t);
  const args = ['web1', 'p3', '--boot-timeout', '1', '--boot-memory', '64MiB', '--boot-arg', '-no-reboot'];
  const found = await cli('verify', ...args, '--boot-bus', 'scsi', '--json');
  t.equal(found.exitCode, 7, found.stderr);
  t.match(found.json(), { checked: 1, damaged: [], booted: [{ point: 'p3', answer: null }] });
  t.match(await cli('verify', ...args, '--boot-line', 'login:', '--boot-bus', 'sata'), {
    exitCode: 7,
    stdout: /^web1: p3 did not boot: .*boot.log/,
  });
  t.match(await cli('verify', '--boot-line', '(', '--json'), { exitCode: 2 });
});

t.test('chain: as text, as JSON, as a drawing', async (t) => {
  const { made, cli } = await site(t);
  t.match(await cli('chain', 'web1'), { exitCode: 0, stdout: /^p1 .*\np2 .*\np3 / });
  t.match((await cli('chain', 'web1', '--json')).json(), {
    vm: 'web1',
    points: [{ id: 'p1' }, {}, {}],
    broken: [],
  });
  const svg = join(made.dir, 'chain.svg');
  t.match(await cli('chain', 'web1', '--svg', svg), { exitCode: 0, stdout: '' });
  t.ok(existsSync(svg));
  t.match(readFileSync(svg, 'utf8'), '<svg ');
});
