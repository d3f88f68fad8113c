import { once } from 'node:events';
import net from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import {
  type Capabilities,
  followJob,
  isOfJob,
  type JobStatus,
  probeCapabilities,
  QmpClient,
} from '../../qmp/index.ts';
import type { FixtureVm, QemuVersion } from '../../vm-fixtures/guestless.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { type Teardown, tempDir } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

const ALL = {
  copyBeforeWrite: true,
  snapshotAccess: true,
  cbwErrorPolicy: true,
  discardSource: true,
  backupTuning: true,
  blockdevBackup: true,
  bitmapPersistence: true,
  groupedCompletion: true,
  yank: true,
  blockdevReopen: true,
  blockExportAdd: true,
  nbdServer: true,
  ioUring: true,
} satisfies Capabilities;

const EXPECTED: Readonly<Record<QemuVersion, Capabilities>> = {
  '5.2': {
    ...ALL,
    copyBeforeWrite: false,
    snapshotAccess: false,
    cbwErrorPolicy: false,
    discardSource: false,
    backupTuning: false,
    yank: false,
    blockdevReopen: false,
  },
  '7.2': { ...ALL, discardSource: false },
  '10.0': ALL,
  '11.1': ALL,
};

/** A node whose `qemu-io sleep` occupies the main loop for as long as we like. */
const NULL_NODE = ['-blockdev', 'driver=null-co,node-name=null0,read-zeroes=on'];

function sleep(client: QmpClient, ms: number): Promise<unknown> {
  return client.execute('human-monitor-command', { 'command-line': `qemu-io null0 "sleep ${ms}"` });
}

interface Started {
  readonly vm: FixtureVm;
  readonly client: QmpClient;
  /** A third socket, held by nobody. */
  readonly spareSocket: string;
}

async function start(t: Teardown, qemu: QemuVersion): Promise<Started> {
  const dir = tempDir(t);
  const spareSocket = join(dir, 'spare.sock');
  const extraArgs = ['-S', ...NULL_NODE, '-qmp', `unix:${spareSocket},server=on,wait=off`];
  const vm = await testVm(t, { qemu, dir, disks: [], extraArgs });
  const client = await QmpClient.connect({ path: vm.qmpSocket });
  t.teardown(() => client.close());
  return { vm, client, spareSocket };
}

for (const qemu of qemuVersions(['5.2', '7.2', '11.1'])) {
  t.test(`QEMU ${qemu}`, async (t) => {
    const { vm, client, spareSocket } = await start(t, qemu);

    t.test('greets and negotiates oob', async (t) => {
      t.match(client.version.text, qemu);
      t.equal(client.oob, true);
      t.match(await client.execute('query-status'), { status: 'prelaunch', running: false });
    });

    t.test('names the class of an error', async (t) => {
      await t.rejects(client.execute('nope'), { code: 'qmp-command', errorClass: 'CommandNotFound' });
      await t.rejects(client.execute('blockdev-del', { 'node-name': 'none' }), {
        code: 'qmp-command',
        errorClass: 'GenericError',
        command: 'blockdev-del',
      });
    });

    t.test('tells its capabilities', async (t) => {
      t.same(await probeCapabilities(client), EXPECTED[qemu]);
    });

    t.test('lets a second client wait without a greeting, and refuses the ones behind it', async (t) => {
      const waiting = [1, 2].map(async () => {
        const socket = net.connect(vm.qmpSocket);
        t.teardown(() => socket.destroy());
        await once(socket, 'connect');
      });
      const second = { path: vm.qmpSocket, greetingTimeoutMs: 100 };
      await t.rejects(QmpClient.connect(second), { code: 'qmp-no-greeting' });
      await Promise.all(waiting);
      await t.rejects(QmpClient.connect(second), {
        code: 'qmp-no-greeting',
        cause: { cause: { code: 'EAGAIN' } },
      });
    });

    t.test('runs a job that is followed to its end', async (t) => {
      const job = {
        'job-id': 'j',
        options: { driver: 'file', filename: join(vm.dir, 'new.raw'), size: 1024 },
      };
      const seen: JobStatus[] = [];
      using listener = client.listen(isOfJob('j'));
      await client.execute('blockdev-create', job);
      await followJob(client, listener, 'j', { timeoutMs: 5000, onStatus: (status) => seen.push(status) });
      t.equal(seen.at(-1), 'concluded');
      t.same(await client.execute('query-jobs'), []);

      const broken = { ...job, options: { ...job.options, filename: '/nowhere/new.raw' } };
      await client.execute('blockdev-create', broken);
      await t.rejects(followJob(client, listener, 'j', { timeoutMs: 5000 }), {
        code: 'qmp-job',
        details: { jobId: 'j', error: /nowhere/ },
      });
      t.same(await client.execute('query-jobs'), []);
    });

    t.test('runs a cancelled block job, whose error says so', async (t) => {
      await client.execute('blockdev-add', { driver: 'null-co', 'node-name': 'a', size: 1 << 30 });
      await client.execute('blockdev-add', { driver: 'null-co', 'node-name': 'b', size: 1 << 30 });
      using listener = client.listen(isOfJob('c'));
      const backup = { device: 'a', target: 'b', sync: 'full', speed: 65536 };
      await client.execute('blockdev-backup', { ...backup, 'job-id': 'c', 'auto-dismiss': false });
      await client.execute('job-cancel', { id: 'c' });
      await t.rejects(followJob(client, listener, 'c', { timeoutMs: 5000 }), {
        code: 'qmp-job',
        details: { error: /cancell?ed/i },
      });
    });

    t.test('answers out of band while its main loop is busy and commands are queued', async (t) => {
      let awake = false;
      const asleep = sleep(client, 300).then(() => {
        awake = true;
      });
      const queued = [...Array(20)].map(() => client.execute('query-status'));
      // Allowed out of band in every version, and refused without a migration.
      await t.rejects(client.execute('migrate-pause', {}, { oob: true }), { code: 'qmp-command' });
      t.equal(awake, false);
      await Promise.all([asleep, ...queued]);
    });

    t.test('keeps the connection usable when a reply comes too late', async (t) => {
      const controller = new AbortController();
      const late = sleep(client, 100);
      const status = client.execute('query-status', {}, { signal: controller.signal });
      controller.abort();
      await t.rejects(status, { code: 'qmp-aborted', details: { sent: true } });
      await late;
      t.match(await client.execute('query-status'), { running: false });
    });

    t.test('answers the next client what the one before had asked, and that is dropped', async (t) => {
      const before = await QmpClient.connect({ path: spareSocket });
      t.teardown(() => before.close());
      const left = t.rejects(sleep(before, 200), { code: 'qmp-outcome-unknown' });
      // Its reply says that QEMU has read all that was sent before.
      await t.rejects(before.execute('migrate-pause', {}, { oob: true }), { code: 'qmp-command' });
      await before.close();
      await left;
      const after = await QmpClient.connect({ path: spareSocket });
      t.teardown(() => after.close());
      t.match(await after.execute('query-status'), { running: false });
    });

    t.test('leaves the outcome unknown when it dies with a command in flight', async (t) => {
      using listener = client.listen();
      const asleep = sleep(client, 10_000);
      await t.rejects(client.execute('migrate-pause', {}, { oob: true }), { code: 'qmp-command' });
      process.kill(vm.pid, 'SIGKILL');
      await t.rejects(asleep, { code: 'qmp-outcome-unknown', details: { command: 'human-monitor-command' } });
      t.match(await client.closed, { code: 'qmp-closed' });
      await t.rejects(listener.next(), { code: 'qmp-closed' });
      await t.rejects(client.execute('query-status'), { code: 'qmp-closed' });
      await vm.waitDead();
      await t.rejects(QmpClient.connect({ path: vm.qmpSocket }), {
        code: 'qmp-connect',
        cause: { code: 'ECONNREFUSED' },
      });
    });
  });
}
