/** Targets that cannot, must not or can no longer be written. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { until } from '../../src/base/deadline.ts';
import { QmpvaultError } from '../../src/base/errors.ts';
import type { DiskName, VmName } from '../../src/base/ids.ts';
import { MiB } from '../../src/base/units.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { restorePoint } from '../../src/restore/restore.ts';
import type { RestoreRequest, RestoreTarget } from '../../src/restore/restore-plan.ts';
import { surveyTarget, Target } from '../../src/restore/target.ts';
import { asRoot } from '../helpers/as-root.ts';
import { failCalls } from '../helpers/failing-calls.ts';
import { contentsOf, HandMadeVault } from '../helpers/hand-made-vault.ts';
import { areSame } from '../helpers/images.ts';
import { loopDevice } from '../helpers/loop-device.ts';
import { smallTmpfs } from '../helpers/small-tmpfs.ts';
import { stuckQemuImg } from '../helpers/stuck-qemu-img.ts';
import { processesIn, tempDir } from '../helpers/temp-dir.ts';

const tools = qemuTools();
/** Restores from it change nothing: all tests share it. */
const made = await HandMadeVault.withChain(t);
const vm = made.vault.vm('web1');

function ask(target: RestoreTarget, wishes: Partial<RestoreRequest> = {}): RestoreRequest {
  return { vm: 'web1' as VmName, point: 'latest', format: 'raw', target, ...wishes };
}

function onto(targets: Record<string, string>): RestoreTarget {
  return { disks: new Map(Object.entries(targets) as [DiskName, string][]) };
}

t.test('a restore that is cancelled in the middle of a disk leaves nothing', async (t) => {
  const dir = tempDir(t);
  const controller = new AbortController();
  const stuck = stuckQemuImg(t);
  const told: number[] = [];
  const restoring = restorePoint(stuck, made.vault, ask({ dir: join(dir, 'new', 'folder') }), {
    signal: controller.signal,
    onProgress: ({ disks }) => {
      const fraction = disks[0]?.fraction ?? 0;
      told.push(fraction);
      if (fraction === 0.5) controller.abort(new QmpvaultError('cancelled', 'enough'));
    },
  });
  await t.rejects(restoring, { code: 'cancelled', message: 'enough' });
  t.ok(told.includes(0.5), 'it was under way');
  t.same(readdirSync(dir), [], 'neither files nor the folders that were made');
  t.same(readdirSync(join(vm.path, 'readers')), []);
  t.same(processesIn(dir), []);
});

t.test('a restore that is cancelled leaves what it was to replace', async (t) => {
  const dir = tempDir(t);
  const target = join(dir, 'vda');
  writeFileSync(target, 'precious');
  const controller = new AbortController();
  const restoring = restorePoint(stuckQemuImg(t), made.vault, ask(onto({ vda: target }), { force: true }), {
    signal: controller.signal,
    onProgress: ({ disks }) => disks[0]?.fraction === 0.5 && controller.abort(),
  });
  await t.rejects(restoring, { code: 'cancelled' });
  t.equal(readFileSync(target, 'utf8'), 'precious');
  t.same(readdirSync(dir), ['vda']);
});

t.test('a restore that a tool fails leaves nothing', async (t) => {
  const dir = tempDir(t);
  const failing = { ...tools, qemuImg: join(dir, 'no-such-qemu-img') };
  await t.rejects(restorePoint(failing, made.vault, ask({ dir: join(dir, 'out') })), {
    code: 'image-tool-failed',
  });
  t.same(readdirSync(dir), []);
});

t.test('too little space is said before anything is written', async (t) => {
  const small = smallTmpfs(t, 2 * MiB);
  const restoring = restorePoint(tools, made.vault, ask({ dir: join(small, 'out') }));
  await t.rejects(restoring, { code: 'target-unfit', message: /free/ });
  t.same(readdirSync(small), []);
});

t.test('space that runs out in the middle is said, and given back', async (t) => {
  const small = smallTmpfs(t, 8 * MiB);
  const restoring = restorePoint(tools, made.vault, ask({ dir: small }), {
    onProgress: ({ disks }) => {
      if (disks[0]?.fraction === 0) writeFileSync(join(small, 'other'), Buffer.alloc(6 * MiB));
    },
  });
  await t.rejects(restoring, { code: 'restore-failed', details: { errno: 'ENOSPC' } });
  t.same(readdirSync(small), ['other']);
});

t.test('places that are no target', async (t) => {
  const dir = tempDir(t);
  writeFileSync(join(dir, 'file'), '');
  symlinkSync('nowhere', join(dir, 'dangling'));
  symlinkSync(made.vault.path, join(dir, 'to-the-vault'));
  const inVault = join(made.vault.path, 'web1', 'p1');
  const table: [what: string, RestoreTarget, code: string][] = [
    ['a folder', onto({ vda: dir }), 'target-unfit'],
    ['a character device', onto({ vda: '/dev/null' }), 'target-unfit'],
    ['a file in the place of the folder', { dir: join(dir, 'file') }, 'target-unfit'],
    ['a folder below a file', { dir: join(dir, 'file', 'below') }, 'target-unfit'],
    ['a link that leads nowhere, without force', onto({ vda: join(dir, 'dangling') }), 'target-exists'],
    ['a point of the vault', onto({ vda: join(inVault, 'vda.qcow2') }), 'target-unfit'],
    ['a new folder in the vault', { dir: join(made.vault.path, 'restored', 'here') }, 'target-unfit'],
    ['the vault through a link', { dir: join(dir, 'to-the-vault') }, 'target-unfit'],
  ];
  for (const [what, target, code] of table) {
    const force = code !== 'target-exists';
    await t.rejects(restorePoint(tools, made.vault, ask(target, { force })), { code }, what);
  }
  t.same(readdirSync(dir).toSorted(), ['dangling', 'file', 'to-the-vault']);
  t.same(readdirSync(made.vault.path).toSorted(), ['vault.json', 'web1']);
  await restorePoint(tools, made.vault, ask(onto({ vda: join(dir, 'dangling') }), { force: true }));
  t.ok(areSame(join(dir, 'dangling'), made.truthFile('p3', 'vda')), 'replaced by the file');
});

t.test('an image that a QEMU has open is not replaced under it', async (t) => {
  const target = join(tempDir(t), 'vda.raw');
  writeFileSync(target, '');
  truncateSync(target, 4 * MiB);
  const user = spawn('qemu-io', ['-f', 'raw', target], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(user, 'exit');
  t.teardown(() => user.kill('SIGKILL'));
  await once(user.stdout, 'data');
  const request = ask(onto({ vda: target }), { force: true });
  await t.rejects(restorePoint(tools, made.vault, request), { code: 'target-unfit' });
  user.stdin.end('quit\n');
  await ended;
  await restorePoint(tools, made.vault, request);
  t.ok(areSame(target, made.truthFile('p3', 'vda')));
});

t.test('a block device holds the disk and nothing of what it held before', async (t) => {
  const device = loopDevice(t, 4 * MiB, 0xee);
  await t.rejects(restorePoint(tools, made.vault, ask(onto({ vdb: device }))), { code: 'target-exists' });
  const { restored, warnings } = await restorePoint(
    tools,
    made.vault,
    ask(onto({ vdb: device }), { force: true }),
  );
  t.same(restored, [{ disk: 'vdb', path: device, virtualSizeBytes: 4 * MiB }]);
  t.same(warnings, []);
  t.ok(areSame(device, made.truthFile('p3', 'vdb')));
});

t.test('an fsync that failed once is a failure, whatever the next one says', async (t) => {
  const broken = { pid: process.pid, calls: ['fsync', 'fdatasync'], error: 'EIO' } as const;
  const device = loopDevice(t, 4 * MiB, 0xee);
  const ofDevice = await failCalls(t, { ...broken, path: device });
  await t.rejects(restorePoint(tools, made.vault, ask(onto({ vdb: device }), { force: true })), {
    code: 'sync-failed',
    message: /Not complete, and not what it held before/,
  });
  t.ok(ofDevice.fired > 0);
  await ofDevice.end();

  const path = join(tempDir(t), 'disk');
  const site = await surveyTarget(tools, { path, force: false, vaultPath: made.vault.path });
  const target = await Target.open(site);
  t.teardown(() => target.discard());
  const ofFile = await failCalls(t, { ...broken, path: site.partPath });
  target.flush();
  await until(async () => ofFile.fired > 0 || undefined, { what: 'an fsync that fails' });
  await ofFile.end();
  await t.rejects(target.sync(), { code: 'sync-failed' }, 'the one at the end would succeed');
});

t.test('a larger block device is taken, with a warning', async (t) => {
  const device = loopDevice(t, 5 * MiB, 0xee);
  const link = join(tempDir(t), 'by-name');
  symlinkSync(device, link);
  const { warnings } = await restorePoint(tools, made.vault, ask(onto({ vda: link }), { force: true }));
  t.equal(warnings.length, 1);
  t.ok(
    readFileSync(device)
      .subarray(0, 4 * MiB)
      .equals(made.truth('p3', 'vda')),
  );
});

t.test('a qcow2 on a block device', async (t) => {
  const device = loopDevice(t, 8 * MiB, 0xee);
  const request = ask(onto({ vda: device }), { force: true, format: 'qcow2' });
  const { warnings } = await restorePoint(tools, made.vault, request);
  t.same(warnings, []);
  t.ok((await contentsOf(t, device, 'qcow2')).equals(made.truth('p3', 'vda')));
});

t.test('block devices that are too small or mounted are refused untouched', async (t) => {
  const small = loopDevice(t, MiB, 0xee);
  const mounted = loopDevice(t, 4 * MiB, 0);
  asRoot('mkfs.ext4', '-q', mounted);
  const mountPoint = join(tempDir(t), 'mnt');
  mkdirSync(mountPoint);
  asRoot('mount', mounted, mountPoint);
  t.teardown(() => asRoot('umount', '--lazy', mountPoint));
  for (const format of ['raw', 'qcow2'] as const) {
    for (const device of [small, mounted]) {
      const request = ask(onto({ vdb: device }), { force: true, format });
      await t.rejects(
        restorePoint(tools, made.vault, request),
        { code: 'target-unfit' },
        `${device} ${format}`,
      );
    }
  }
  t.ok(readFileSync(small).every((byte) => byte === 0xee));
  t.ok(existsSync(join(mountPoint, 'lost+found')));
});

t.test('of a block device that is half written the error says so', async (t) => {
  const device = loopDevice(t, 4 * MiB, 0xee);
  const controller = new AbortController();
  const restoring = restorePoint(stuckQemuImg(t), made.vault, ask(onto({ vda: device }), { force: true }), {
    signal: controller.signal,
    onProgress: ({ disks }) => disks[0]?.fraction === 0.5 && controller.abort(),
  });
  await t.rejects(restoring, { code: 'cancelled', details: { devices: [device] } });
});
