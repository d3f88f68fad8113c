/** The command line as its users start it, as far as it goes without a VM. */
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { execa, execaSync } from 'execa';
import t from 'tap';
import { until } from '../../src/base/deadline.ts';
import { EXIT } from '../../src/base/errors.ts';
import { MiB } from '../../src/base/units.ts';
import { runCli, startCli } from '../helpers/command-line.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { areSame } from '../helpers/images.ts';
import { QMPVAULT } from '../helpers/programs.ts';
import { stuckQemuImg } from '../helpers/stuck-qemu-img.ts';
import { processesIn, type Teardown, tempDir } from '../helpers/temp-dir.ts';

const pristine = await HandMadeVault.withChain(t);
await pristine.add('x1', {
  vm: 'db',
  writes: { vda: [[9, 0, 4096]] },
  createdAt: '2026-11-20T08:01:30.000Z',
});

/** A vault of its own with points of two VMs, on a host that saw no other. */
function site(t: Teardown) {
  const dir = tempDir(t);
  const vault = join(dir, 'vault');
  cpSync(pristine.vault.path, vault, { recursive: true });
  const env = { QMPVAULT_STATE_DIR: join(dir, 'state') };
  return {
    dir,
    vault,
    env,
    cli: (...argv: string[]) => startCli(argv, env),
    /** With --json: the exit code and the one document. */
    json: async (...argv: string[]) => {
      const { exitCode, stdout } = await startCli([...argv, '--json'], env);
      return { exitCode, ...(JSON.parse(stdout) as Record<string, unknown>) };
    },
  };
}

t.test('init makes a vault once', async (t) => {
  const dir = tempDir(t);
  const vault = join(dir, 'nas', 'vault');
  const env = { QMPVAULT_STATE_DIR: join(dir, 'state') };
  const made = await startCli(['init', vault, '--json'], env);
  t.equal(made.exitCode, EXIT.done);
  const { vault: about } = JSON.parse(made.stdout);
  t.match(about, { id: /^[0-9a-f]{32}$/, path: vault });

  const again = await startCli(['init', vault], env);
  t.equal(again.exitCode, EXIT.done);
  t.match(again.stdout, about.id);

  unlinkSync(join(vault, 'vault.json'));
  const away = await startCli(['list', '--vault', vault], env);
  t.equal(away.exitCode, EXIT.vault, 'not mounted, as far as one can tell');
  const refused = await startCli(['init', vault], env);
  t.equal(refused.exitCode, EXIT.refused);
  t.match(refused.stderr, /^qmpvault: .*\n$/);
  const anew = await startCli(['init', vault, '--new-vault'], env);
  t.equal(anew.exitCode, EXIT.done);
});

t.test('list tells of one VM, of all, and of points that cannot be read', async (t) => {
  const { json, cli, vault } = site(t);
  const one = await json('list', 'web1', '--vault', vault);
  t.equal(one.exitCode, EXIT.done);
  t.match(one, { points: [{ id: 'p1' }, { id: 'p2', parent: 'p1' }, { id: 'p3' }], warnings: [] });
  const all = await json('list', '--vault', vault);
  t.match(all, { points: [{ id: 'p1' }, { id: 'x1', vm: 'db' }, { id: 'p2' }, { id: 'p3' }] });

  const text = await cli('list', '--vault', vault);
  t.equal(text.stderr, '');
  t.match(text.stdout.split('\n')[0], /^VM +POINT /);

  writeFileSync(join(vault, 'web1', 'p2', 'manifest.json'), '{');
  const damaged = await json('list', 'web1', '--vault', vault);
  t.equal(damaged.exitCode, EXIT.done);
  t.match(damaged, { points: [{ id: 'p1' }, { id: 'p3' }], warnings: [/p2/] });
  const words = await cli('list', 'web1', '--vault', vault);
  t.match(words.stderr, /^qmpvault: warning: .*p2.*\n$/);
});

t.test('show finds a point by its id, a beginning, or as the latest', async (t) => {
  const { json, cli, vault } = site(t);
  t.match(await json('show', 'web1', 'p2', '--vault', vault), {
    exitCode: EXIT.done,
    point: { id: 'p2', vm: 'web1' },
  });
  t.match(await json('show', 'web1', 'latest', '--vault', vault), { point: { id: 'p3' } });
  t.match(await json('show', 'db', 'x', '--vault', vault), { point: { id: 'x1' } });
  t.match(
    (await cli('show', 'web1', 'p3', '--vault', vault)).stdout,
    /^chain +p1 <- p2 <- p3$[\s\S]*\np1 .*\np2 .*\np3 .*iB {2}<-\n$/m,
  );
});

t.test('an instant restore holds its point until it is ended', async (t) => {
  const { json, cli, vault, dir } = site(t);
  const to = join(dir, 'out');
  const made = await json('restore', 'web1', 'p2', '--vault', vault, '--to', to, '--instant');
  t.match(made, { exitCode: EXIT.done, restored: [{ disk: 'vda' }, { disk: 'vdb' }], hold: /^[0-9a-f]{8}$/ });
  const { hold: id = '' } = made as { hold?: string };
  const disks = [{ disk: 'vda', path: join(to, 'vda.qcow2') }, { disk: 'vdb' }];
  t.match(await json('holds', 'web1', '--vault', vault), { holds: [{ id, point: 'p2', disks }], ended: [] });
  t.match((await cli('holds', 'web1', '--vault', vault)).stdout, /^HOLD +POINT .*\n[0-9a-f]{8} +p2 +vda /);
  const refused = await json('delete', 'web1', 'p1', '--keep-descendants', '--vault', vault);
  t.match(refused, { exitCode: EXIT.refused, error: { code: 'point-held', details: { hold: id } } });
  const needed = await json('holds', 'web1', '--vault', vault, '--end', id);
  t.match(needed, { exitCode: EXIT.refused, error: { code: 'point-held' } });
  const ended = await cli('holds', 'web1', '--vault', vault, '--end', id, '--force');
  t.match(ended, { exitCode: EXIT.done, stdout: `${id} has ended\nno holds\n` });
});

t.test('restore brings disks back, and says where they are', async (t) => {
  const { json, cli, vault, dir } = site(t);
  const to = join(dir, 'out');
  t.same(await json('restore', 'web1', '--vault', vault, '--to', to), {
    exitCode: EXIT.done,
    restored: ['vda', 'vdb'].map((disk) => ({
      disk,
      path: join(to, `${disk}.qcow2`),
      virtualSizeBytes: 4 * MiB,
    })),
    warnings: [],
  });

  const target = join(dir, 'b');
  const text = await cli(
    'restore',
    'web1',
    'p2',
    '--vault',
    vault,
    '--disk',
    `vdb=${target}`,
    '--format',
    'raw',
  );
  t.match(text, { exitCode: EXIT.done, stderr: '' });
  t.match(text.stdout, target);
  t.ok(areSame(target, pristine.truthFile('p2', 'vdb')));
});

const RELINK = ['rebase', '-u', '-f', 'qcow2', '-b', '/etc/shadow', '-F', 'raw'];

t.test('each way to fail has its exit code and its error', async (t) => {
  const { env, vault, dir } = site(t);
  writeFileSync(join(dir, 'there'), '');
  const socket = join(dir, 'no.qmp');
  const image = (id: string) => join(vault, 'web1', id, 'vda.qcow2');
  const restore = (point: string) => ['restore', 'web1', point, '--vault', vault, '--to', join(dir, 'out')];
  const table: [argv: string[], exit: number, code: string, before?: () => unknown][] = [
    [['list', 'web1'], EXIT.usage, 'usage'],
    [['show', 'web1', 'p', '--vault', vault], EXIT.usage, 'usage'],
    [['restore', 'web1', '--vault', vault, '--disk', `vda=${dir}/there`], EXIT.usage, 'target-exists'],
    [['restore', 'web1', '--vault', vault, '--disk', `vda=${dir}`], EXIT.usage, 'target-unfit'],
    [['list', '--vault', join(dir, 'none')], EXIT.missing, 'vault-missing'],
    [['list', 'web2', '--vault', vault], EXIT.missing, 'vm-unknown'],
    [['show', 'web1', 'q', '--vault', vault], EXIT.missing, 'point-unknown'],
    [['restore', 'web1', '--vault', vault, '--disk', `sda=${dir}/x`], EXIT.missing, 'disk-unknown'],
    [['backup', 'web1', '--vault', join(dir, 'none'), '--qmp', socket], EXIT.missing, 'vault-missing'],
    [['backup', 'web1', '--vault', vault, '--qmp', socket], EXIT.vm, 'vm-unreachable'],
    [['inspect', 'web1', '--vault', vault, '--qmp', socket], EXIT.vm, 'vm-unreachable'],
    [[...restore('p1'), '--qemu-bin', dir], EXIT.run, 'image-tool-failed'],
    [restore('p3'), EXIT.damage, 'link-refused', () => execaSync('qemu-img', [...RELINK, image('p2')])],
    [restore('p3'), EXIT.run, 'image-invalid', () => unlinkSync(image('p3'))],
    [
      restore('p3'),
      EXIT.vault,
      'manifest-invalid',
      () => rmSync(join(vault, 'web1', 'p1'), { recursive: true }),
    ],
    [
      ['list', '--vault', vault],
      EXIT.vault,
      'vault-format',
      () => writeFileSync(join(vault, 'vault.json'), '{"format":99}'),
    ],
  ];
  for (const [argv, exitCode, code, before] of table) {
    before?.();
    const result = await runCli([...argv, '--json'], env);
    t.match(result, { code: exitCode, stderr: '' }, `${code}: ${argv[0]}`);
    t.match(JSON.parse(result.stdout), { error: { code, message: String, details: Object } });
  }
  t.notOk(existsSync(join(dir, 'none')), 'only --init makes a vault');
  t.notOk(existsSync(join(dir, 'out')));
});

t.test('backup --init makes the vault before it looks for the VM', async (t) => {
  const dir = tempDir(t);
  const env = { QMPVAULT_STATE_DIR: join(dir, 'state'), QMPVAULT_RUNTIME_DIR: join(dir, 'run') };
  const vault = join(dir, 'vault');
  const argv = ['backup', 'web1', '--vault', vault, '--init', '--qmp', join(dir, 'no.qmp')];
  t.equal((await startCli(argv, env)).exitCode, EXIT.vm);
  t.ok(statSync(join(vault, 'vault.json')).isFile());
});

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  t.test(`${signal} ends a restore with nothing left`, async (t) => {
    const { cli, vault, dir } = site(t);
    const out = join(dir, 'out');
    mkdirSync(out);
    const bin = dirname(stuckQemuImg(t).qemuImg);
    const restoring = cli('restore', 'web1', '--vault', vault, '--to', out, '--qemu-bin', bin, '--json');
    t.teardown(() => restoring.kill('SIGKILL'));
    const isHalf = async () =>
      readdirSync(out).some((name) => statSync(join(out, name)).size > 0) || undefined;
    await until(isHalf, { what: 'half a disk', timeoutMs: 20_000 });
    restoring.kill(signal);
    const { exitCode, stdout, stderr } = await restoring;
    t.equal(exitCode, EXIT.cancelled);
    t.match(JSON.parse(stdout), { error: { code: 'cancelled', details: { signal } } });
    t.equal(stderr, `qmpvault: ${signal}: ending the restore of web1\n`);
    t.same(readdirSync(out), []);
    t.same(processesIn(out), []);
  });
}

t.test('a reader that goes away is no failure', async (t) => {
  const { vault, env } = site(t);
  const command = `${process.execPath} ${QMPVAULT} list --vault ${vault} | true; echo "\${PIPESTATUS[0]}"`;
  const { stdout, stderr } = await execa('bash', ['-c', command], { env });
  t.same({ stdout, stderr }, { stdout: '0', stderr: '' });
});

t.test('on a terminal there is a bar for each disk, elsewhere none', async (t) => {
  const { cli, vault, env, dir } = site(t);
  const restore = (to: string) => ['restore', 'web1', '--vault', vault, '--to', join(dir, to)];
  const command = [process.execPath, QMPVAULT, ...restore('a')].join(' ');
  const terminal = await execa('script', ['-qec', command, '/dev/null'], { env, stdin: 'ignore' });
  t.match(terminal.stdout, /vda \[.*\] 100% {2}4\.00 MiB of 4\.00 MiB/);
  t.match(terminal.stdout, /vdb \[/);
  t.equal((await cli(...restore('b'))).stderr, '');
});
