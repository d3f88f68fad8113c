import { chmodSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { silent } from '../../../src/base/log.ts';
import type { VaultConfig } from '../../../src/config/config.ts';
import { parseConfig } from '../../../src/config/read-config.ts';
import { mountCommand, mountSecrets, refusalOf } from '../../../src/daemon/mount-command.ts';
import { Mounts } from '../../../src/daemon/mounts.ts';
import { mountedAt, readMountTable } from '../../../src/image/mount-table.ts';
import { asRoot } from '../../helpers/as-root.ts';
import { deathOf } from '../../helpers/death.ts';
import { type Teardown, tempDir } from '../../helpers/temp-dir.ts';

function vaultOf(mount: string, name = 'nas'): VaultConfig {
  const [vault] = parseConfig('c', `vaults: { ${name}: { mount: { ${mount} } } }`).config.vaults;
  if (vault === undefined) throw new Error('no vault');
  return vault;
}

const SUDO = process.getuid?.() === 0 ? '' : 'sudo -n';

/** Programs that mount a tmpfs in the NAS's place, or do what `$dir/mount.how` says; they keep a list of their calls. */
function site(t: Teardown, { timeoutMs = 10_000 } = {}) {
  const dir = tempDir(t);
  const point = join(dir, 'a point');
  const calls = join(dir, 'calls');
  writeFileSync(calls, '');
  const program = (name: string, work: string) => {
    const file = join(dir, name);
    const text = `#!/bin/sh\necho "${name} $*" >>${calls}\n. ${file}.how\n${work}\n`;
    writeFileSync(file, text);
    writeFileSync(`${file}.how`, '');
    chmodSync(file, 0o755);
    return file;
  };
  t.teardown(() => {
    if (mountedAt(readFileSync('/proc/self/mountinfo', 'utf8'), point)) asRoot('umount', '-l', point);
  });
  let time = Date.UTC(2026, 0, 1);
  const mounts = new Mounts({
    clock: () => new Date(time),
    log: silent,
    site: {
      mount: program('mount', `for point; do :; done; ${SUDO} mount -t tmpfs -o size=1m nas:/x "$point"`),
      umount: program('umount', `${SUDO} umount "$@"`),
      readTable: async () => (await readMountTable()).replaceAll(' - tmpfs nas:/x', ' - nfs4 nas:/x'),
      timeoutMs,
    },
  });
  return {
    dir,
    point,
    mounts,
    how: (name: 'mount' | 'umount', script: string) => writeFileSync(join(dir, `${name}.how`), script),
    calls: () =>
      readFileSync(calls, 'utf8')
        .split('\n')
        .slice(0, -1)
        .map((line) => line.replace(point, 'POINT')),
    later: (ms: number) => {
      time += ms;
    },
    isMounted: async () => mountedAt(await readMountTable(), point) !== null,
  };
}

t.test('a share is mounted once for all who need it, and unmounted when none did for a while', async (t) => {
  const { mounts, point, calls, later, isMounted } = site(t);
  mounts.configure([
    vaultOf(`type: nfs, source: "nas:/x", options: "soft", point: ${JSON.stringify(point)}, idle: 1m`),
  ]);
  t.match(mounts.stateOf('nas'), { state: 'unknown' });
  const uses = await Promise.all([mounts.use('nas'), mounts.use('nas')]);
  t.ok(await isMounted());
  t.match(mounts.stateOf('nas'), { state: 'ready', why: null });
  t.same(calls(), ['mount -t nfs -o soft nas:/x POINT']);
  later(120_000);
  uses[0]?.[Symbol.dispose]();
  uses[0]?.[Symbol.dispose]();
  await mounts.unmountIdle();
  t.ok(await isMounted(), 'one still uses it');
  uses[1]?.[Symbol.dispose]();
  await mounts.unmountIdle();
  t.ok(await isMounted(), 'the last one has just gone');
  later(60_000);
  await mounts.unmountIdle();
  t.notOk(await isMounted());
  t.match(mounts.stateOf('nas'), { state: 'unmounted' });
  t.same(calls().slice(1), ['umount -c POINT']);
});

t.test('what is mounted already is used, and something else is refused', async (t) => {
  const { mounts, point, calls, dir } = site(t);
  asRoot('mkdir', point);
  asRoot('mount', '-t', 'tmpfs', 'nas:/x', point);
  const at = `point: ${JSON.stringify(point)}`;
  mounts.configure([
    vaultOf(`type: nfs, source: "NAS:/x/", ${at}`),
    vaultOf(`type: cifs, source: //nas/x, ${at}`, 'smb'),
  ]);
  await mounts.use('nas');
  await t.rejects(mounts.use('smb'), { code: 'vault-away', message: /something else is mounted/ });
  t.match(mounts.stateOf('smb'), { state: 'away', why: /something else/ });
  t.same(calls(), []);
  t.ok(existsSync(dir));
});

t.test('a mount that fails says why, and the next use tries again', async (t) => {
  const { mounts, point, how, isMounted } = site(t);
  mounts.configure([vaultOf(`type: nfs, source: "nas:/x", point: ${JSON.stringify(point)}`)]);
  how('mount', 'echo "mount.nfs: Connection refused" >&2; exit 32');
  await t.rejects(mounts.use('nas'), { code: 'vault-away', message: /Connection refused/ });
  t.match(mounts.stateOf('nas'), { state: 'away', why: 'mount.nfs: Connection refused' });
  how('mount', '');
  await mounts.use('nas');
  t.ok(await isMounted());
  t.match(mounts.stateOf('nas'), { state: 'ready' });
});

t.test('a mount that hangs holds nobody, and takes what it started with it', async (t) => {
  const { mounts, point, how, dir } = site(t, { timeoutMs: 300 });
  mounts.configure([vaultOf(`type: nfs, source: "nas:/x", point: ${JSON.stringify(point)}`)]);
  how('mount', `sleep 1000 & echo $! >${dir}/child; wait`);
  const start = performance.now();
  await t.rejects(mounts.use('nas'), { code: 'vault-away', message: /did not end within 300 ms/ });
  t.ok(performance.now() - start < 5_000);
  await deathOf(Number(readFileSync(join(dir, 'child'), 'utf8')));
  const abort = new AbortController();
  const using = mounts.use('nas', { signal: abort.signal });
  abort.abort();
  await t.rejects(using, { code: 'cancelled' });
});

t.test('a share that somebody else uses stays; one that hangs is taken out of the tree', async (t) => {
  const { mounts, point, how, later, isMounted, calls } = site(t, { timeoutMs: 1_000 });
  mounts.configure([vaultOf(`type: nfs, source: "nas:/x", point: ${JSON.stringify(point)}, idle: 1s`)]);
  (await mounts.use('nas'))[Symbol.dispose]();
  later(1_000);
  how('umount', 'echo "umount: target is busy." >&2; exit 32');
  await mounts.unmountIdle();
  t.match(mounts.stateOf('nas'), { state: 'ready' });
  t.ok(await isMounted());
  how('umount', 'case "$2" in -l) ;; *) sleep 1000 ;; esac');
  await mounts.unmountIdle();
  t.notOk(await isMounted());
  t.match(mounts.stateOf('nas'), { state: 'unmounted' });
  t.same(calls().slice(1), ['umount -c POINT', 'umount -c POINT', 'umount -c -l POINT']);
});

t.test('a vault that leaves the configuration is unmounted when its users have gone', async (t) => {
  const { mounts, point, later, isMounted } = site(t);
  const vault = vaultOf(`type: nfs, source: "nas:/x", point: ${JSON.stringify(point)}, idle: 1s`);
  mounts.configure([vault]);
  const use = await mounts.use('nas');
  mounts.configure([]);
  t.throws(() => mounts.stateOf('nas'), { code: 'vault-unknown' });
  later(1_000);
  await mounts.unmountIdle();
  t.ok(await isMounted());
  use[Symbol.dispose]();
  mounts.configure([{ ...vault, name: 'renamed' }]);
  later(1_000);
  await mounts.unmountIdle();
  t.notOk(await isMounted(), 'by its new name too');
});

t.test('a vault that somebody else mounts is never touched', async (t) => {
  const { mounts, calls, dir } = site(t);
  mounts.configure([{ name: 'nas', path: join(dir, 'elsewhere'), mount: null }]);
  (await mounts.use('nas'))[Symbol.dispose]();
  await mounts.unmountIdle();
  t.same(calls(), []);
  t.notOk(readdirSync(dir).includes('elsewhere'));
  mounts.report('nas', 'away', 'no answer');
  t.match(mounts.stateOf('nas'), { state: 'away', why: 'no answer' });
  mounts.report('nas', 'ready');
  t.match(mounts.stateOf('nas'), { state: 'ready', why: null });
});

t.test('a cifs share gets nobrl, and its password is not among the arguments', async (t) => {
  const mountOf = (options: string) => {
    const { mount } = vaultOf(`type: cifs, source: //nas/x, options: "${options}", point: /p`);
    if (mount === null) throw new Error('no mount');
    return mount;
  };
  const table: [options: string, args: string, password?: string][] = [
    ['ro', '-t cifs -o ro,nobrl //nas/x /p'],
    ['nobrl,ro', '-t cifs -o nobrl,ro //nas/x /p'],
    ['username=u,password=a=b,vers=3.0', '-t cifs -o username=u,vers=3.0,nobrl //nas/x /p', 'a=b'],
    ['pass=geheim', '-t cifs -o nobrl //nas/x /p', 'geheim'],
  ];
  for (const [options, args, password] of table) {
    t.equal(mountCommand('mount', mountOf(options)).join(' '), `mount ${args}`);
    t.strictSame(mountSecrets(mountOf(options)), password === undefined ? {} : { PASSWD: password });
  }
});

t.test('what the kernel tells of a mount is compared with what is meant', async (t) => {
  const line = '36 35 0:40 / /mnt/a\\040b rw,relatime shared:1 - nfs4 nas:/x rw,vers=4.2';
  t.strictSame(mountedAt(`${line}\n`, '/mnt/a b'), { point: '/mnt/a b', fsType: 'nfs4', source: 'nas:/x' });
  t.equal(mountedAt(line, '/mnt/a'), null);
  t.match(
    mountedAt(`${line}\n${line.replace('nfs4', 'tmpfs')}`, '/mnt/a b'),
    { fsType: 'tmpfs' },
    'the topmost',
  );
  const table: [type: 'nfs' | 'cifs', meant: string, fsType: string, source: string, isSame: boolean][] = [
    ['nfs', 'nas:/x', 'nfs', 'nas:/x', true],
    ['nfs', 'NAS:/x/', 'nfs4', 'nas:/x', true],
    ['nfs', 'nas:/x', 'nfs4', 'nas:/X', false],
    ['nfs', 'nas:/x', 'autofs', 'nas:/x', false],
    ['cifs', '\\\\NAS\\x', 'cifs', '//nas/x', true],
    ['cifs', '//nas/x', 'smb3', '//nas/x', true],
    ['cifs', '//nas/x', 'cifs', '//nas/y', false],
  ];
  for (const [type, source, fsType, found, isSame] of table) {
    const mount = { type, source, options: null, point: '/p', idleMs: 0 };
    t.equal(refusalOf({ point: '/p', fsType, source: found }, mount) === null, isSame, `${source} ${found}`);
  }
});
