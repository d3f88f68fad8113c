/** The Debian package: installed, its service under a supervisor, killed and started again, a backup through it. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import t from 'tap';
import { until } from '../../src/base/deadline.ts';
import { MiB } from '../../src/base/units.ts';
import { asRoot } from '../helpers/as-root.ts';
import { connect, writeConfig } from '../helpers/daemon.ts';
import { expectClean, type TestSite, testSite } from '../helpers/engine.ts';
import { type Teardown, tempDir } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

const PACKAGE = fileURLToPath(new URL('../../scripts/package', import.meta.url));
const QMPVAULT = '/usr/bin/qmpvault';
const CACHE = '/var/cache/qmpvault';
/** What a hypervisor host has: no Node, nothing of this checkout. */
const BARE_PATH = '/usr/sbin:/usr/bin:/sbin:/bin';

async function install(t: Teardown, dir: string): Promise<void> {
  const { stdout: deb } = await execa(PACKAGE, [dir]);
  asRoot('dpkg', '--install', deb);
  t.teardown(() => asRoot('dpkg', '--purge', 'qmpvault'));
}

function environmentOf({ engine }: TestSite): Record<string, string> {
  return { PATH: BARE_PATH, QMPVAULT_STATE_DIR: engine.stateDir, QMPVAULT_RUNTIME_DIR: engine.runtimeDir };
}

/** runit's supervisor, which starts the service whenever it ends. */
function supervise(t: Teardown, site: TestSite, config: string): void {
  const service = join(site.dir, 'service');
  mkdirSync(service);
  const variables = Object.entries(environmentOf(site)).map(([name, value]) => `${name}=${value}`);
  writeFileSync(
    join(service, 'run'),
    `#!/bin/sh\nexec env -i ${variables.join(' ')} ${QMPVAULT} serve --config ${config}\n`,
  );
  chmodSync(join(service, 'run'), 0o755);
  const runsv = execa('runsv', [service], {
    reject: false,
    stdio: 'ignore',
  });
  t.teardown(async () => {
    // It passes SIGTERM on to the service, and ends after it.
    runsv.kill('SIGTERM');
    await runsv;
  });
}

t.test('installed on a host without Node, under a supervisor that starts it again', async (t) => {
  const site = await testSite(t);
  const vm = await testVm(t, { qemu: '7.2', disks: [{ name: 'vda', sizeBytes: 64 * MiB }] });
  await vm.write('vda', 1, 16 * MiB, 32 * MiB);
  await install(t, site.dir);
  const env = environmentOf(site);
  const run = async (...args: string[]) => {
    const { stdout } = await execa(QMPVAULT, [...args, '--json'], { env, extendEnv: false });
    return JSON.parse(stdout);
  };
  const config = writeConfig(site, { vms: { vm1: { qmp: vm.qmpSocket } } });
  t.match(await run('config', 'check', '--config', config), { ok: true });
  supervise(t, site, config);
  const socket = join(site.dir, 'rpc.sock');
  const first = await connect(socket);
  const { pid } = await first.call('daemon.status', {});
  const { runId } = await first.call('backup.start', { vm: 'vm1', bandwidth: '16MiB/s' });
  const copying = async () =>
    (await first.call('run.get', { runId })).progress?.phase === 'copying' || undefined;
  await until(copying, { what: 'the copy to begin', timeoutMs: 60_000, everyMs: 20 });
  process.kill(pid, 'SIGKILL');
  await first.close();

  const second = await connect(socket);
  t.teardown(() => second.close());
  t.not((await second.call('daemon.status', {})).pid, pid, 'it was started again');
  t.match(await second.call('run.wait', { runId }), { state: 'succeeded', attempts: 1 });
  t.match(await run('backup', 'vm1', '--socket', socket), { point: { how: 'tracked' } });
  t.match(await run('verify', '--vault', site.vault.path), { checked: 2, damaged: [] });
  await expectClean(t, site, vm, { bitmaps: 1 });
  const help = execFileSync(QMPVAULT, ['--help'], { env, encoding: 'utf8' });
  t.match(help, /serve/);
  if (process.geteuid?.() !== 0) return;
  t.equal(statSync(CACHE).mode & 0o777, 0o700, 'the compiled code that is kept is for root alone');
  t.not(readdirSync(CACHE).length, 0);
});

t.test('packed for npm: the command, and QMP as a library', async (t) => {
  const dir = tempDir(t);
  const checkout = fileURLToPath(new URL('../..', import.meta.url));
  await execa('npm', ['pack', '--pack-destination', dir], { cwd: checkout });
  const [packed = ''] = readdirSync(dir);
  await execa('tar', ['-xzf', join(dir, packed), '-C', dir]);
  const root = join(dir, 'package');
  symlinkSync(join(checkout, 'node_modules'), join(root, 'node_modules'));
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const { stdout } = await execa(process.execPath, [join(root, 'scripts/qmpvault'), '--version']);
  t.equal(stdout, version);
  const imports = "console.log(typeof (await import('qmpvault/qmp')).QmpClient.connect)";
  const library = await execa(process.execPath, ['--input-type=module', '-e', imports], { cwd: root });
  t.equal(library.stdout, 'function');
  t.ok(existsSync(join(root, 'dist/qmp/index.d.ts')), 'with its types');
});
