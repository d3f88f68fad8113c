/** The daemon: runs that outlive it, limits, schedules, and a command line that speaks through it. */
import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import t, { type Test } from 'tap';
import { until } from '../../src/base/deadline.ts';
import { STEPS } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { type FixtureVm, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { startCli } from '../helpers/command-line.ts';
import { spawnDaemon, startDaemon, type TestDaemon, writeConfig } from '../helpers/daemon.ts';
import { expectClean, type TestSite, testSite } from '../helpers/engine.ts';
import { freezableMount } from '../helpers/freezable-mount.ts';
import { difference } from '../helpers/images.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import type { Teardown } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

/** A VM whose backup takes its time. */
async function filledVm(t: Teardown, qemu: QemuVersion = '7.2'): Promise<FixtureVm> {
  const vm = await testVm(t, { qemu, disks: [{ name: 'vda', sizeBytes: 64 * MiB }] });
  await vm.write('vda', 1, 16 * MiB, 32 * MiB);
  return vm;
}

function vmsOf(vm: FixtureVm): object {
  return { vms: { vm1: { qmp: vm.qmpSocket } } };
}

/** Resolves when the run copies. */
async function copying({ client }: Pick<TestDaemon, 'client'>, runId: string): Promise<void> {
  const look = async () =>
    (await client.call('run.get', { runId })).progress?.phase === 'copying' || undefined;
  await until(look, { what: 'the copy to begin', timeoutMs: 60_000, everyMs: 20 });
}

async function truth(t: Tap, site: TestSite, vm: FixtureVm, point: string | undefined, label: string) {
  const file = join(site.dir, `truth-${label}`);
  await vm.truth('vda', file);
  t.equal(await difference(join(site.vault.path, 'vm1', point ?? '', 'vda.qcow2'), file), null, label);
}
type Tap = Pick<Test, 'equal'>;

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: killed in the middle of a run, the next daemon finishes it`, async (t) => {
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const vm = await filledVm(t, qemu);
    const env = { QMPVAULT_QEMU_BIN: qemuBin(qemu) };
    const first = await startDaemon(t, site, { config: vmsOf(vm), env });
    const wish = { vm: 'vm1', requestId: 'nightly', bandwidth: '8MiB/s' };
    const { runId } = await first.client.call('backup.start', wish);
    t.equal((await first.client.call('backup.start', wish)).runId, runId, 'asked twice, begun once');
    await t.rejects(first.client.call('backup.start', { ...wish, full: true }), { code: 'request-conflict' });
    await t.rejects(first.client.call('backup.start', { vm: 'vm1', whenBusy: 'refuse' }), {
      code: 'run-busy',
    });
    await copying(first, runId);
    const pruned = { vm: 'vm1', keep: { last: 1 }, waitMs: 100 } as const;
    const { runId: prune } = await first.client.call('prune.start', pruned);
    t.match(
      await first.client.call('run.wait', { runId: prune }),
      {
        state: 'failed',
        attempts: 0,
        error: { code: 'run-busy', message: /the backup \w+ of vm1 is not over/ },
      },
      'who waits for so long only does not wait for ever',
    );
    await first.client.call('run.setBandwidth', { runId, bandwidth: '4MiB/s' });
    first.process.kill('SIGKILL');
    await first.process;

    const second = await startDaemon(t, site, { config: vmsOf(vm), env });
    t.equal((await second.client.call('run.get', { runId })).state, 'running', 'its worker is found at work');
    await second.client.call('run.setBandwidth', { runId, bandwidth: null });
    const run = await second.client.call('run.wait', { runId });
    t.match(run, { state: 'succeeded', attempts: 1, result: { point: { kind: 'full', how: 'first' } } });
    await truth(t, site, vm, run.point, 'the point of the killed daemon');

    await vm.write('vda', 2, 20 * MiB, MiB);
    const next = await second.backUp({ vm: 'vm1' });
    t.match(next, { state: 'succeeded', result: { point: { how: 'tracked' } } });
    await truth(t, site, vm, next.point, 'the next');
    await expectClean(t, site, vm, { bitmaps: 1 });
  });
}

t.test(
  'the point of a worker that is killed is finished by the next one, with nothing left behind',
  async (t) => {
    const [site, vm] = [await testSite(t), await filledVm(t)];
    const daemon = await startDaemon(t, site, { config: vmsOf(vm) });
    const { runId } = await daemon.client.call('backup.start', { vm: 'vm1', bandwidth: '8MiB/s' });
    await copying(daemon, runId);
    const folder = join(site.engine.stateDir, 'daemon', 'work', runId);
    const staged = (await readdir(join(site.vault.path, 'vm1'))).find((name) => name.startsWith('.staging-'));
    process.kill(Number(readFileSync(join(folder, 'pid'), 'latin1').split(' ')[0]), 'SIGKILL');
    await daemon.client.call('run.setBandwidth', { runId, bandwidth: null });
    const run = await daemon.client.call('run.wait', { runId });
    t.match(run, { state: 'succeeded', attempts: 2 });
    t.equal(`.staging-${run.point}`, staged, 'it is the point that the first one had begun');
    await truth(t, site, vm, run.point, 'the point');
    await expectClean(t, site, vm, { bitmaps: 1 });
  },
);

/** The steps of a record of a run that succeeds; the others have a test of their own. */
const WALKED_BY_SUCCESS = ['run-queued', 'run-started', 'run-noted', 'run-finished'];

t.test('killed at each of its own steps, the next daemon goes on from there', async (t) => {
  const [site, vm] = [await testSite(t), await filledVm(t)];
  for (const [i, step] of WALKED_BY_SUCCESS.entries()) {
    const dying = await startDaemon(t, site, { config: vmsOf(vm), env: { QMPVAULT_STOP_AT: step } });
    const requestId = `request ${i}`;
    const asked = dying.client.call('backup.start', { vm: 'vm1', requestId });
    asked.catch(() => {});
    const { signal, stderr } = await dying.process;
    t.match({ signal, stderr }, { signal: 'SIGKILL', stderr: `step ${step}` }, step);

    const next = await startDaemon(t, site, { config: vmsOf(vm) });
    const { runId } = await next.client.call('backup.start', { vm: 'vm1', requestId });
    const run = await next.client.call('run.wait', { runId });
    t.equal(run.state, 'succeeded', `${step}: the run is finished`);
    next.process.kill('SIGTERM');
    t.equal((await next.process).exitCode, 0);
  }
  const { points } = JSON.parse((await cliWith(site, ['list', 'vm1', '--vault', site.vault.path])).stdout);
  t.equal(points.length, WALKED_BY_SUCCESS.length, 'one point for each request');
  await expectClean(t, site, vm, { bitmaps: 1 });
});

t.test(
  'killed at the steps of runs that do not just succeed, the next daemon goes on from there',
  async (t) => {
    const [site, vm] = [await testSite(t), await filledVm(t)];
    const walked: string[] = [];
    const vm2 = { qmp: join(site.dir, 'none.sock'), schedule: '0 2 * * *' };
    const config = { vms: { vm1: { qmp: vm.qmpSocket }, vm2 } };
    /** A daemon that dies at a step, which `act` leads to. */
    const dieAt = async (step: string, act: (daemon: TestDaemon) => Promise<unknown>) => {
      const daemon = await startDaemon(t, site, { config, env: { QMPVAULT_STOP_AT: step } });
      const acted = act(daemon);
      const [{ signal, stderr }] = await Promise.all([daemon.process, acted.catch(() => {})]);
      t.match({ signal, stderr }, { signal: 'SIGKILL', stderr: `step ${step}` }, step);
      walked.push(step);
    };

    const slow = { vm: 'vm1', bandwidth: '2MiB/s' };
    const [cancelled, lost, failed] = ['a', 'b', 'c'].map((requestId) => ({ requestId }));
    await dieAt('run-cancel-requested', async (daemon) => {
      const { runId } = await daemon.client.call('backup.start', { ...slow, ...cancelled });
      await copying(daemon, runId);
      await daemon.client.call('run.cancel', { runId });
    });
    await dieAt('run-stopped', async ({ client }) => {
      const { runId } = await client.call('backup.start', { ...slow, ...cancelled });
      t.match(await client.call('run.get', { runId }), { state: 'running' }, 'nobody was told of it');
      await client.call('run.cancel', { runId });
    });
    await dieAt('run-lost', async (daemon) => {
      const before = await daemon.client.call('backup.start', { ...slow, ...cancelled });
      t.match(await daemon.client.call('run.wait', before), { state: 'cancelled' });
      await expectClean(t, site, vm, { bitmaps: 0 });
      const { runId } = await daemon.client.call('backup.start', { ...slow, ...lost });
      await copying(daemon, runId);
      const pid = join(site.engine.stateDir, 'daemon', 'work', runId, 'pid');
      process.kill(Number(readFileSync(pid, 'latin1').split(' ')[0]), 'SIGKILL');
    });
    await dieAt('run-failed', async ({ client }) => {
      const { runId } = await client.call('backup.start', { ...slow, ...lost });
      await client.call('run.setBandwidth', { runId, bandwidth: null });
      t.match(await client.call('run.wait', { runId }), { state: 'succeeded', attempts: 2 });
      await expectClean(t, site, vm, { bitmaps: 1 });
      await client.call('backup.start', { vm: 'vm2', ...failed });
    });
    // Missed while the daemon was down, and so begun by itself: that is tried again.
    missed(site, 'vm2');
    await dieAt('run-postponed', async ({ client }) => {
      const { runId } = await client.call('backup.start', { vm: 'vm2', ...failed });
      t.match(await client.call('run.wait', { runId }), { state: 'failed' });
    });
    const { client } = await startDaemon(t, site, { config });
    const postponed = async () =>
      (await client.call('run.list', {})).runs.find(({ cause, error }) => cause === 'caught-up' && error);
    t.match(await until(postponed, { what: 'the next attempt to be put off', timeoutMs: 30_000 }), {
      state: 'queued',
      attempts: 1,
    });
    t.strictSame(
      [...walked, ...WALKED_BY_SUCCESS].toSorted(),
      [...STEPS.record].toSorted(),
      'with those above, all there are',
    );
  },
);

t.test(
  'cancelled while the NAS hangs; meanwhile the daemon answers, and then all is well again',
  async (t) => {
    const mount = freezableMount(t, 256 * MiB);
    const site = await testSite(t, { vault: join(mount.dir, 'vault') });
    const vm = await filledVm(t);
    const daemon = await startDaemon(t, site, { config: vmsOf(vm) });
    const { runId } = await daemon.client.call('backup.start', { vm: 'vm1', bandwidth: '4MiB/s' });
    await copying(daemon, runId);
    mount.freeze();
    const cancelled = daemon.client.call('run.cancel', { runId, why: 'the NAS hangs' });
    t.match(await daemon.client.call('daemon.status', {}), { state: 'running' });
    t.match(await daemon.client.call('vm.list', {}), { vms: [{ name: 'vm1' }] });
    await cancelled;
    const run = await daemon.client.call('run.wait', { runId });
    t.equal(run.state, 'cancelled');
    mount.thaw();
    t.match(await daemon.backUp({ vm: 'vm1' }), { state: 'succeeded' });
    await expectClean(t, site, vm, { bitmaps: 1 });
  },
);

async function httpGet(socketPath: string, path: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  request({ socketPath, path }, resolve).on('error', reject).end();
  return text(await promise);
}

t.test('who watches is told: metrics, and hooks at the end of a run', async (t) => {
  const [site, vm] = [await testSite(t), await filledVm(t)];
  const [socket, told] = [join(site.dir, 'metrics.sock'), join(site.dir, 'told')];
  const config = {
    ...vmsOf(vm),
    metrics: { socket },
    hooks: { onSuccess: { command: ['/bin/sh', '-c', `cat >${told}.part && mv ${told}.part ${told}`] } },
  };
  const { backUp } = await startDaemon(t, site, { config });
  const run = await backUp({ vm: 'vm1' });
  const hook = async () => readFile(told, 'utf8').catch(() => undefined);
  const about = JSON.parse(await until(hook, { what: 'the hook', timeoutMs: 30_000 }));
  t.match(about, { id: run.id, state: 'succeeded', point: run.point });
  const metrics = await httpGet(socket, '/metrics');
  t.match(metrics, /^qmpvault_runs_ended_total\{what="backup",state="succeeded"\} 1$/m);
  t.match(metrics, /^qmpvault_newest_point_timestamp_seconds\{vm="vm1"\} \d/m);
  t.match(metrics, /^qmpvault_vault_state\{vault="nas",state="ready"\} 1$/m);
});

t.test('no more runs at a time than allowed; the others say why they wait', async (t) => {
  const site = await testSite(t);
  const vms = await Promise.all([filledVm(t), filledVm(t)]);
  const config = {
    limits: { runs: 1 },
    vms: { vm1: { qmp: vms[0].qmpSocket }, vm2: { qmp: vms[1].qmpSocket } },
  };
  const { client } = await startDaemon(t, site, { config });
  const listener = client.listen('run.finished');
  await client.call('run.subscribe', {});
  const first = await client.call('backup.start', { vm: 'vm1', bandwidth: '16MiB/s' });
  const second = await client.call('backup.start', { vm: 'vm2' });
  await copying({ client }, first.runId);
  t.match(await client.call('run.get', second), { state: 'queued', waitingFor: /limits\.runs: 1/ });
  t.match(await client.call('run.list', { state: 'queued' }), { runs: [{ id: second.runId }] });
  t.match(await client.call('run.wait', second), { state: 'succeeded' });
  const told: string[] = [];
  for await (const { params } of listener) {
    told.push(params.run.id);
    if (told.length === 2) break;
  }
  t.strictSame(told, [first.runId, second.runId], 'who subscribed is told of both ends');
  const log = await client.call('run.log', first);
  t.match(JSON.parse(log.lines[0] ?? ''), { run: first.runId, msg: 'next is a full' });
});

t.test('stopped: what runs is cancelled when the time is up', async (t) => {
  const [site, vm] = [await testSite(t), await filledVm(t)];
  const daemon = await startDaemon(t, site, { config: vmsOf(vm), args: ['--grace', '1'] });
  const { runId } = await daemon.client.call('backup.start', { vm: 'vm1', bandwidth: '1MiB/s' });
  await copying(daemon, runId);
  daemon.process.kill('SIGTERM');
  t.equal((await daemon.process).exitCode, 0);
  await expectClean(t, site, vm, { bitmaps: 0 });
  const next = await startDaemon(t, site, { config: vmsOf(vm) });
  t.match(await next.client.call('run.get', { runId }), { state: 'cancelled', error: { code: 'cancelled' } });
});

t.test('a new configuration is taken, one with problems refused; SIGHUP or daemon.reload', async (t) => {
  const [site, vm] = [await testSite(t), await filledVm(t)];
  const { client, process: daemon, configFile } = await startDaemon(t, site, { config: vmsOf(vm) });
  writeFileSync(configFile, 'vaults: 7\n');
  daemon.kill('SIGHUP');
  const problem = async () => (await client.call('daemon.status', {})).config.problem ?? undefined;
  t.match(await until(problem, { what: 'the refusal' }), configFile);
  await t.rejects(client.call('daemon.reload', {}), { code: 'config-invalid' });
  t.match(await client.call('vm.list', {}), { vms: [{ name: 'vm1' }] }, 'the old one stays in force');
  writeConfig(site, { ...vmsOf(vm), limits: { runs: 5 } });
  t.match(await client.call('daemon.reload', {}), { changes: [/limits\.runs: 2, now 5/] });
  t.match(await client.call('daemon.status', {}), { config: { problem: null }, runs: { limit: 5 } });
});

t.test('VMs are added and found; those that stopped are backed up from their images', async (t) => {
  const [site, vm] = [await testSite(t), await filledVm(t)];
  const sockets = join(vm.dir, '*.sock');
  const first = await startDaemon(t, site, { config: { discover: [sockets] } });
  await first.client.call('vm.add', { vm: 'added', qmp: join(site.dir, 'none.sock') });
  const found = async () =>
    (await first.client.call('vm.list', {})).vms.find(({ source }) => source === 'discovered');
  const discovered = await until(found, { what: 'the VM to be found', timeoutMs: 30_000 });
  t.match(discovered, { state: 'running', uuid: String, qmp: vm.qmpSocket });
  t.match(await first.backUp({ vm: discovered.name }), { state: 'succeeded' });
  await t.rejects(first.client.call('vm.remove', { vm: discovered.name }), { code: 'usage' });

  const restore = async () => {
    const wish = { vm: discovered.name, inPlace: true, keepOld: true };
    return first.client.call('run.wait', await first.client.call('restore.start', wish));
  };
  t.match(
    await restore(),
    { state: 'failed', error: { code: 'vm-busy' } },
    'nothing in place of what it runs on',
  );
  await vm.quit();
  t.match(await first.backUp({ vm: discovered.name }), {
    state: 'succeeded',
    result: { point: { how: 'tracked' } },
  });
  t.match(await restore(), {
    state: 'succeeded',
    result: { restored: [{ path: vm.disks[0]?.image }], kept: [String] },
  });
  t.strictSame(await first.client.call('hold.list', { vm: discovered.name }), { holds: [], ended: [] });
  const unknown = first.client.call('hold.end', { vm: discovered.name, holdId: 'none' });
  await t.rejects(unknown, { code: 'point-unknown' });
  first.process.kill('SIGTERM');
  await first.process;
  const next = await startDaemon(t, site, { config: { discover: [sockets] } });
  t.match(
    (await next.client.call('vm.list', {})).vms.find(({ name }) => name === discovered.name),
    { source: 'discovered', state: 'stopped', uuid: discovered.uuid },
    'also the next daemon knows it',
  );
  t.match(await next.backUp({ vm: discovered.name }), { state: 'succeeded' });
  next.process.kill('SIGTERM');
  await next.process;
  const { client } = await startDaemon(t, site, { config: {} });
  t.match(
    await client.call('vm.list', {}),
    { vms: [{ name: 'added', source: 'added', state: 'stopped' }] },
    'what is not to be discovered any more is not known from before either',
  );
  t.strictSame(await client.call('vm.remove', { vm: 'added' }), { removed: 'added' });
});

/** The schedule of a daemon that was down for three days. */
function missed({ engine }: TestSite, vm: string): void {
  const folder = join(engine.stateDir, 'daemon');
  mkdirSync(folder, { recursive: true });
  const since = { [`backup ${vm}`]: new Date(Date.now() - 3 * 86_400_000).toISOString() };
  writeFileSync(join(folder, 'schedule.json'), JSON.stringify({ format: 1, since, fromTheFuture: [] }));
}

t.test('a run that was missed while the daemon was down is caught up once', async (t) => {
  const [site, vm] = [await testSite(t), await filledVm(t)];
  missed(site, 'vm1');
  const config = { vms: { vm1: { qmp: vm.qmpSocket, schedule: '0 2 * * *', timeZone: 'UTC' } } };
  const { client } = await startDaemon(t, site, { config });
  const caughtUp = async () => (await client.call('run.list', {})).runs[0];
  const run = await until(caughtUp, { what: 'the run to be caught up', timeoutMs: 30_000 });
  t.match(await client.call('run.wait', { runId: run.id }), { state: 'succeeded', cause: 'caught-up' });
  t.equal((await client.call('run.list', {})).runs.length, 1, 'once for all that were missed');
  t.match(await client.call('vm.list', {}), { vms: [{ nextRun: { what: 'backup', at: /T02:00:00/ } }] });
});

t.test('one daemon alone works with a state folder', async (t) => {
  const site = await testSite(t);
  await startDaemon(t, site);
  const second = await spawnDaemon(t, site).process;
  t.match(second, { exitCode: 1, stderr: /another daemon works with/ });
});

t.test('the command line says the same through the daemon as without', async (t) => {
  const [site, vm] = [await testSite(t), await filledVm(t)];
  const { socket } = await startDaemon(t, site, { config: vmsOf(vm) });
  const remote = (...args: string[]) => cliWith(site, [...args, '--socket', socket]);
  const local = (...args: string[]) => cliWith(site, [...args, '--vault', site.vault.path]);

  const backup = await remote('backup', 'vm1');
  t.match(JSON.parse(backup.stdout), { point: { kind: 'full', how: 'first' }, warnings: [] });
  t.equal(backup.exitCode, 0);
  for (const args of [
    ['list'],
    ['list', '--no-cache'],
    ['list', 'vm1'],
    ['show', 'vm1', 'latest'],
    ['chain', 'vm1'],
  ]) {
    const [there, here] = [await remote(...args), await local(...args)];
    t.strictSame(JSON.parse(there.stdout), JSON.parse(here.stdout), args.join(' '));
  }
  t.match(JSON.parse((await remote('inspect', 'vm1')).stdout), { next: { how: 'tracked' } });
  t.match(JSON.parse((await remote('bitmaps', 'vm1')).stdout), { bitmaps: [{ owner: 'newest' }] });
  t.match(JSON.parse((await remote('protect', 'vm1', 'latest')).stdout), { point: { protected: true } });
  t.match(JSON.parse((await remote('verify', '--deep')).stdout), { checked: 1, damaged: [] });
  t.match(JSON.parse((await remote('prune', 'vm1', '--keep-last', '1')).stdout), { kept: [{}], removed: [] });
  const to = join(site.dir, 'restored');
  t.match(JSON.parse((await remote('restore', 'vm1', '--to', to)).stdout), { restored: [{ disk: 'vda' }] });
  const refused = await remote('delete', 'vm1', 'latest');
  t.match({ ...refused, stdout: JSON.parse(refused.stdout) }, { exitCode: 8, stdout: { error: Object } });
  t.equal((await remote('show', 'vm1', 'nothing')).exitCode, 3);
  t.equal((await remote('backup', 'vm1', '--agent', '/run/x.sock')).exitCode, 2, 'the daemon decides that');
  t.equal((await remote('backup', 'unknown')).exitCode, 3);
  t.match(JSON.parse((await remote('status')).stdout), { state: 'running', vms: [{ name: 'vm1' }] });
});

t.test('a client that knows nothing but JSON-RPC drives a backup and a restore', async (t) => {
  const [site, vm] = [await testSite(t), await filledVm(t)];
  const { socket } = await startDaemon(t, site, { config: vmsOf(vm) });
  const to = join(site.dir, 'restored');
  const script = join(import.meta.dirname, '../helpers/generic-client.py');
  const { stdout } = await promisify(execFile)('python3', [script, socket, 'vm1', to]);
  const { point, notified } = JSON.parse(stdout);
  t.ok(notified > 0, 'it was told of the progress');
  await truth(t, site, vm, point, 'the point');
  t.equal(
    await difference(join(to, 'vda.qcow2'), join(site.dir, 'truth-the point')),
    null,
    'the restored disk',
  );
});

/** In `--json`, with the site's folders. */
function cliWith(site: TestSite, args: readonly string[]) {
  return startCli([...args, '--json'], {
    QMPVAULT_STATE_DIR: site.engine.stateDir,
    QMPVAULT_RUNTIME_DIR: site.engine.runtimeDir,
    QMPVAULT_SCRATCH_DIR: site.engine.scratchDir,
  });
}

t.test('points are served over NBD by a process that outlives the daemon', async (t) => {
  const [site, vm] = [await testSite(t), await filledVm(t)];
  const first = await startDaemon(t, site, { config: vmsOf(vm) });
  await first.backUp({ vm: 'vm1' });
  const served = await first.client.call('nbd.start', { vm: 'vm1' });
  t.match(served.exports, [{ disk: 'vda', uri: /^nbd\+unix:/ }]);
  first.process.kill('SIGKILL');
  await first.process;
  const { stdout } = await promisify(execFile)('qemu-img', [
    'info',
    '--output=json',
    served.exports[0]?.uri ?? '',
  ]);
  t.equal(JSON.parse(stdout)['virtual-size'], 64 * MiB);
  const { client } = await startDaemon(t, site, { config: vmsOf(vm) });
  const { exports } = await until(
    async () => {
      const listed = await client.call('nbd.list', {});
      return listed.exports.length > 0 ? listed : undefined;
    },
    { what: 'the process to be reached', timeoutMs: 60_000 },
  );
  t.strictSame(exports, [served], 'the next daemon knows what is served');
  t.match(await client.call('nbd.stop', { exportId: served.exportId }), { stopped: served.exportId });
  await t.rejects(client.call('nbd.stop', { exportId: served.exportId }), { code: 'export-unknown' });
});
