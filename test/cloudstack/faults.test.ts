/** What goes wrong around a backup: callers that go, calls that come twice, a NAS that is full, parents that do not fit. */
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { until } from '../../src/base/deadline.ts';
import { MiB } from '../../src/base/units.ts';
import { readQcow2Header } from '../../src/image/qcow2-header.ts';
import { type FixtureVm, qemuBin } from '../../vm-fixtures/guestless.ts';
import { asRoot } from '../helpers/as-root.ts';
import { difference } from '../helpers/images.ts';
import { boundTo, folderAt, Orchestrator, parseBackup, parseStats } from '../helpers/orchestrator.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { growTmpfs, smallTmpfs } from '../helpers/small-tmpfs.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

/** A VM is found by its name among all of this host. */
const INSTANCE = `i-${process.pid}-7-VM`;

interface Given {
  readonly vm: FixtureVm;
  readonly nas: string;
  readonly orchestrator: Orchestrator;
}

async function begin(t: Test, { nas = tempDir(t), env = {} } = {}): Promise<Given> {
  const qemu = qemuVersions(['7.2', '11.1'])[0] ?? '7.2';
  const disks = [{ name: 'vda', sizeBytes: 16 * MiB }];
  const vm = await testVm(t, { qemu, disks, name: INSTANCE });
  await vm.write('vda', 1, 0, 8 * MiB);
  return { vm, nas, orchestrator: new Orchestrator(t, { nas: boundTo(nas), bin: qemuBin(qemu), env }) };
}

const pointsIn = (nas: string) => readdirSync(join(nas, INSTANCE)).filter((name) => name.startsWith('2026'));

async function expectNothingLeft(t: Test, { vm, nas, orchestrator }: Given, bitmaps: number): Promise<void> {
  t.strictSame(readdirSync(join(orchestrator.dir, 'run')), [], 'no mount point, socket or folder');
  t.notMatch(readFileSync('/proc/mounts', 'utf8'), orchestrator.dir, 'no mount');
  t.notOk(
    readdirSync(join(nas, INSTANCE)).some((name) => /^\.staging|^lease/.test(name)),
    'nothing half made',
  );
  const left = await vm.leftovers();
  t.strictSame([left.nodes, left.jobs, left.bitmaps.length], [[], [], bitmaps], 'the VM is as it was');
}

async function expectTrue(t: Test, { vm, nas }: Given, path: string): Promise<void> {
  const truth = join(vm.dir, 'truth');
  await vm.truth('vda', truth);
  t.equal(
    await difference(join(nas, path, 'root.vda.qcow2.qcow2'), truth),
    null,
    `${path} is as the disk is`,
  );
}

t.test('the same backup asked for again, at once and later, is made once', async (t) => {
  const given = await begin(t);
  const { orchestrator, vm, nas } = given;
  const { args, path } = orchestrator.decide(INSTANCE, vm);
  const both = await Promise.all([orchestrator.run(args), orchestrator.run(args)]);
  t.strictSame(
    both.map(({ exitCode }) => exitCode),
    [0, 0],
  );
  const again = await orchestrator.run(args);
  t.strictSame([again, again], both, 'each is told the same');
  t.equal(pointsIn(nas).length, 1);
  t.ok(parseBackup(again.stdout, false).sizeBytes >= 8 * MiB);
  await expectTrue(t, given, path);
  await expectNothingLeft(t, given, 1);
});

t.test('a caller that leaves, hangs up and reads nothing any more keeps the run from nothing', async (t) => {
  const given = await begin(t);
  const { orchestrator, vm, nas } = given;
  const { args, path } = orchestrator.decide(INSTANCE, vm);
  const run = orchestrator.start(args, { QMPVAULT_STOP_AT: 'copying:stop' });
  const { pid = 0 } = run;
  await until(
    async () => (/^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')) ? true : undefined),
    {
      what: 'the run to reach its step',
      timeoutMs: 60_000,
    },
  );
  for (const pipe of [run.stdin, run.stdout, run.stderr]) pipe?.destroy();
  process.kill(pid, 'SIGHUP');
  process.kill(pid, 'SIGCONT');
  await until(async () => (existsSync(`/proc/${pid}`) ? undefined : true), {
    what: 'its end',
    timeoutMs: 60_000,
  });
  t.equal(pointsIn(nas).length, 1, 'it was made');
  await expectTrue(t, given, path);
  await expectNothingLeft(t, given, 1);
  t.match(
    await orchestrator.run(args),
    { exitCode: 0, stdout: /^\d+\n$/ },
    'and who asks again is told its size',
  );
});

t.test(
  'ended by a signal it leaves nothing; killed, it leaves no mount, and the next one clears up',
  async (t) => {
    const given = await begin(t);
    const { orchestrator, vm, nas } = given;
    const { args } = orchestrator.decide(INSTANCE, vm);
    const stopped = orchestrator.start(args, { QMPVAULT_STOP_AT: 'copying:stop' });
    const { pid = 0 } = stopped;
    await until(
      async () => (/^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')) ? true : undefined),
      {
        what: 'the run to reach its step',
        timeoutMs: 60_000,
      },
    );
    process.kill(pid, 'SIGTERM');
    process.kill(pid, 'SIGCONT');
    t.match(await stopped.result, { exitCode: 1, stdout: /^cancelled: [^\n]+\n$/ });
    t.strictSame(pointsIn(nas), []);
    await expectNothingLeft(t, given, 0);

    const killed = await orchestrator.run(args, { QMPVAULT_STOP_AT: 'copying' });
    t.equal(killed.exitCode, null, 'it was killed');
    t.notMatch(readFileSync('/proc/mounts', 'utf8'), orchestrator.dir, 'its mount is gone with it');
    const next = await orchestrator.run(args);
    t.match(next, { exitCode: 0, stdout: /^\d+\n$/ });
    t.equal(pointsIn(nas).length, 1);
    await expectNothingLeft(t, given, 1);
  },
);

t.test(
  'a NAS that is full in the middle: the guest runs on, the bitmap stays, the next is right',
  async (t) => {
    const given = await begin(t, { nas: smallTmpfs(t, 12 * MiB) });
    const { orchestrator, vm, nas } = given;
    const first = await orchestrator.backUp(INSTANCE, vm);
    await vm.write('vda', 2, 0, 12 * MiB);
    const { args } = orchestrator.decide(INSTANCE, vm);
    const full = await orchestrator.run(args);
    t.equal(full.exitCode, 1);
    t.match(
      full.stdout,
      /^(vault-full|run-failed|image-tool-failed|writer-failed): [^\n]+\n$/,
      'one line says why',
    );
    await vm.verify('vda', 2, 0, 12 * MiB);
    await expectNothingLeft(t, given, 1);
    growTmpfs(nas, 64 * MiB);
    const next = await orchestrator.backUp(INSTANCE, vm);
    t.equal(next.type, 'INCREMENTAL');
    const manifest = JSON.parse(readFileSync(join(nas, next.path, 'manifest.json'), 'utf8'));
    t.match(manifest, { how: 'tracked', parent: first.path.split('/')[1] });
    await expectTrue(t, given, next.path);
  },
);

t.test(
  'a parent that does not fit: an increment where it can be one, else a full that says so',
  async (t) => {
    const given = await begin(t);
    const { orchestrator, vm, nas } = given;
    const first = await orchestrator.backUp(INSTANCE, vm);
    await vm.write('vda', 3, MiB, MiB);
    const second = await orchestrator.backUp(INSTANCE, vm);
    const manifest = (path: string) => JSON.parse(readFileSync(join(nas, path, 'manifest.json'), 'utf8'));
    const ask = async (change: (args: string[]) => void) => {
      await vm.write('vda', 4, 2 * MiB, MiB);
      const { args, path } = orchestrator.decide(INSTANCE, vm);
      const own = [...args];
      change(own);
      const { exitCode, stdout } = await orchestrator.run(own);
      t.equal(exitCode, 0, stdout);
      await expectTrue(t, given, path);
      return { ...parseBackup(stdout, false), ...manifest(path), path };
    };
    const set = (args: string[], option: string, value: string) => {
      args[args.indexOf(option) + 1] = value;
    };

    const bitmap = await ask((args) => set(args, '--bitmap-parent', 'backup-0'));
    t.match(
      bitmap,
      { fellBack: false, how: 'resynced', parent: second.path.split('/')[1] },
      'another bitmap',
    );
    const older = await ask((args) => {
      set(args, '--bitmap-parent', first.bitmap);
      set(args, '--parent-paths', `${first.path}/${first.volumes[0]}`);
    });
    t.match(older, { fellBack: false, how: 'resynced', parent: first.path.split('/')[1] }, 'an older point');
    const { backingLink } = await readQcow2Header(join(nas, older.path, 'root.vda.qcow2.qcow2'));
    t.equal(backingLink, `../${first.path.split('/')[1]}/root.vda.qcow2.qcow2`);
    const gone = await ask((args) =>
      set(args, '--parent-paths', `${INSTANCE}/2020.01.01.00.00.00/root.x.qcow2`),
    );
    t.match(gone, { fellBack: true, kind: 'full', parent: null }, 'a point that is not there');
    rmSync(join(nas, second.path, 'root.vda.qcow2.qcow2'));
    const damaged = await ask(() => {});
    t.match(damaged, { fellBack: true, kind: 'full' }, 'a file of the parent is missing');
  },
);

t.test('a mount that says much, and a VM whose first socket is taken', async (t) => {
  const bin = tempDir(t);
  const shim = join(bin, 'mount');
  writeFileSync(
    shim,
    `#!/bin/sh\nhead -c 200000 /dev/zero | tr '\\0' x >&2\necho "$@" >"${bin}/said"\nexec /bin/mount --bind "$3" "$4"\n`,
  );
  chmodSync(shim, 0o755);
  const given = await begin(t, { env: { PATH: `${bin}:${process.env['PATH']}`, QMPVAULT_LOG: 'debug' } });
  const { orchestrator, vm, nas } = given;
  orchestrator.nas = { type: 'cifs', address: nas, options: 'vers=3.0,password=geheim' };
  const { args } = orchestrator.decide(INSTANCE, vm);
  const { exitCode, stdout } = await orchestrator.run(args);
  t.equal(exitCode, 0, stdout);
  const said = readFileSync(join(bin, 'said'), 'utf8');
  t.match(
    said,
    new RegExp(`^-t cifs ${nas} ${orchestrator.dir}/run/nas-\\S+ -o vers=3.0,password=geheim,nobrl\\n$`),
  );
  t.notMatch(await orchestrator.log(), /geheim/, 'a password is not logged');
  await expectNothingLeft(t, given, 1);
  t.match(
    await orchestrator.run(['-o', 'stats', '-t', 'nope', '-s', 'nas:/x', '-m', ''], {
      PATH: process.env['PATH'] ?? '',
    }),
    { exitCode: 1, stdout: /^vault-away: [^\n]+\n$/ },
    'what cannot be mounted',
  );

  writeFileSync(join(bin, 'umount'), '#!/bin/sh\necho busy >&2; exit 32\n');
  chmodSync(join(bin, 'umount'), 0o755);
  const unknown = orchestrator.decide(INSTANCE, vm).args.map((arg) => arg.replaceAll(INSTANCE, 'i-9-9-VM'));
  const stuck = await orchestrator.run(unknown);
  t.match(
    stuck,
    { exitCode: 20, stdout: /^vm-unknown: [^\n]*unmounting [^\n]* failed: busy\n$/ },
    'what it cannot unmount',
  );
  rmSync(join(bin, 'umount'));
  t.equal((await orchestrator.run(['-o', 'stats', ...orchestrator.where()])).exitCode, 0);
  t.strictSame(readdirSync(join(orchestrator.dir, 'run')), [], 'what it left the next one removes');

  // The test's own connection holds the second socket; the first is now somebody else's, as libvirt's is.
  const config = join(orchestrator.dir, 'config.yaml');
  writeFileSync(
    config,
    `vaults: { nas: { path: ${nas} } }\nvms: { ${INSTANCE}: { qmp: ${vm.testSocket} } }\n`,
  );
  const busy = await orchestrator.run(orchestrator.decide(INSTANCE, vm).args);
  t.match(busy, { exitCode: 1, stdout: /^vm-busy: / }, 'what the configuration says comes first');
  rmSync(config);
});

t.test('stats, refusals and what the original left', async (t) => {
  const nas = smallTmpfs(t, 8 * MiB);
  const orchestrator = new Orchestrator(t, { nas: boundTo(nas) });
  const { exitCode, stdout } = await orchestrator.run(['-o', 'stats', ...orchestrator.where()]);
  t.equal(exitCode, 0);
  t.equal(parseStats(stdout).totalBytes, 8 * MiB);
  t.equal(stdout.trim().split('\n').length, 1);

  const old = join(nas, INSTANCE, '2024.01.01.00.00.00');
  mkdirSync(old, { recursive: true });
  writeFileSync(join(old, 'domain-config.xml'), '<domain/>');
  asRoot('qemu-img', 'create', '-q', '-f', 'qcow2', join(old, 'root.x.qcow2'), '1M');
  for (const path of ['', '/', '..', INSTANCE, `${INSTANCE}/..`, `/${INSTANCE}/2024.01.01.00.00.00`]) {
    t.match(await orchestrator.delete(path), { exitCode: 1, stdout: /^(usage|name-invalid): / }, `'${path}'`);
  }
  t.match(await orchestrator.delete(`${INSTANCE}/2024`), { exitCode: 0 }, 'no beginning of a name');
  t.ok(existsSync(old));
  t.match(await orchestrator.delete(`${INSTANCE}/2024.01.01.00.00.00`), { exitCode: 0, stdout: '' });
  t.notOk(existsSync(old), 'a backup that the original made');

  t.match(await orchestrator.run(['--frobnicate']), {
    exitCode: 1,
    stdout: /^Invalid option: --frobnicate\n\nUsage/,
  });
  orchestrator.nas = folderAt(join(nas, 'nowhere'));
  t.match(await orchestrator.run(['-o', 'stats', ...orchestrator.where()]), {
    exitCode: 1,
    stdout: /^vault-away: /,
  });
});
