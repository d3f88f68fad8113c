/**
 * The same calls on a host where the daemon runs: it does the backups, its limits and its history have them, and the
 * caller cannot tell.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { until } from '../../src/base/deadline.ts';
import { MiB } from '../../src/base/units.ts';
import type { RpcClient } from '../../src/rpc/client.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { difference } from '../helpers/images.ts';
import { boundTo, Orchestrator, parseBackup } from '../helpers/orchestrator.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

/** A VM is found by its name among all of this host. */
const INSTANCE = `i-${process.pid}-8-VM`;
/** The daemon is not where the script looks for it then. */
const WITHOUT_DAEMON = { QMPVAULT_CONFIG: '/nonexistent' };

const runsOf = async (client: RpcClient) => (await client.call('run.list', {})).runs.toReversed();

async function begin(t: Test) {
  const qemu = qemuVersions(['7.2', '11.1'])[0] ?? '7.2';
  const nas = join(tempDir(t), 'nas');
  mkdirSync(nas);
  const vm = await testVm(t, { qemu, disks: [{ name: 'vda', sizeBytes: 16 * MiB }], name: INSTANCE });
  await vm.write('vda', 1, 0, 8 * MiB);
  const orchestrator = new Orchestrator(t, { nas: boundTo(nas), bin: qemuBin(qemu) });
  const expectTrue = async (path: string) => {
    const truth = join(vm.dir, 'truth');
    await vm.truth('vda', truth);
    t.equal(await difference(join(nas, path, 'root.vda.qcow2.qcow2'), truth), null, `${path} is true`);
  };
  return { vm, nas, orchestrator, expectTrue };
}

t.test('through the daemon all is said and made as without it', async (t) => {
  const { vm, nas, orchestrator, expectTrue } = await begin(t);
  const { client } = await orchestrator.startDaemon(t);
  const first = orchestrator.decide(INSTANCE, vm);
  const both = await Promise.all([orchestrator.run(first.args), orchestrator.run(first.args)]);
  t.match(both, [
    { exitCode: 0, stdout: /^\d+\n$/ },
    { exitCode: 0, stdout: both[0].stdout },
  ]);
  t.match(
    await runsOf(client),
    [
      {
        what: 'backup',
        vm: INSTANCE,
        vault: `none:${nas}`,
        state: 'succeeded',
        point: first.path.split('/')[1],
      },
    ],
    'two at once are one run',
  );
  t.strictSame(await orchestrator.run(first.args), both[0], 'asked for again it is answered again');
  t.strictSame(await orchestrator.run(first.args, WITHOUT_DAEMON), both[0], 'and without the daemon too');
  await expectTrue(first.path);

  const { sizeBytes } = parseBackup(both[0].stdout, false);
  orchestrator.backups.push({ ...first, type: 'FULL', sizeBytes });
  await vm.write('vda', 2, MiB, MiB);
  const running = await orchestrator.backUp(INSTANCE, vm);
  await expectTrue(running.path);
  await vm.quit();
  const stopped = await orchestrator.backUp(INSTANCE, vm, { stopped: true });
  await vm.restart();
  t.strictSame([running.type, stopped.type], ['INCREMENTAL', 'INCREMENTAL']);
  t.ok(running.sizeBytes < 4 * MiB);
  t.match(await orchestrator.delete(running.path), { exitCode: 0, stdout: '' });
  await expectTrue(stopped.path);
  t.match(await orchestrator.delete(running.path), { exitCode: 0, stdout: '' }, 'what is gone is deleted');

  const { args } = orchestrator.decide(INSTANCE, vm);
  const set = (option: string, value: string) => args.map((arg, i) => (args[i - 1] === option ? value : arg));
  const wrong = [set('-s', join(nas, 'nowhere')), args.map((arg) => arg.replaceAll(INSTANCE, 'i-9-9-VM'))];
  for (const words of wrong) {
    const outcome = await orchestrator.run(words);
    // The mount point has another name each time.
    const plain = ({ stdout, exitCode }: typeof outcome) => [exitCode, stdout.replace(/nas-\S+/g, 'DIR')];
    t.strictSame(plain(outcome), plain(await orchestrator.run(words, WITHOUT_DAEMON)), outcome.stdout);
    t.match(outcome, { exitCode: 1, stdout: /^(vault-away|vm-unknown): [^\n]+\n$/ });
  }
  await testVm(t, { qemu: '7.2', disks: [{ name: 'vda', sizeBytes: 16 * MiB }], name: INSTANCE });
  t.match(
    await orchestrator.run(args),
    { exitCode: 1, stdout: /^vm-state: more than one QEMU called [^\n]+\n$/ },
    'of two VMs of one name neither is taken for the other',
  );
  const runs = await runsOf(client);
  t.strictSame(
    runs.map(({ what, state }) => `${what} ${state}`),
    [
      ...['backup', 'backup', 'backup', 'backup', 'delete'].map((what) => `${what} succeeded`),
      ...['delete', 'backup', 'backup', 'backup'].map((what) => `${what} failed`),
    ],
    'each was a run of the daemon',
  );
  t.strictSame(readdirSync(join(orchestrator.dir, 'run')), [], 'no mount point is left');
  t.notMatch(readFileSync('/proc/mounts', 'utf8'), orchestrator.dir, 'and nothing is mounted');
});

t.test('the run outlives its caller, and its worker and the daemon may die under a caller', async (t) => {
  const { vm, nas, orchestrator, expectTrue } = await begin(t);
  const { client, process: daemon } = await orchestrator.startDaemon(t, {
    env: { QMPVAULT_STOP_AT: 'copying:stop' },
  });
  const { args, path } = orchestrator.decide(INSTANCE, vm);
  const workerAtWork = () =>
    until(
      async () => {
        const pid = pidOf(orchestrator.dir, (await runsOf(client)).at(-1)?.id ?? '');
        if (pid === null || !existsSync(`/proc/${pid}`)) return undefined;
        return /^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')) ? pid : undefined;
      },
      { what: 'the worker to reach its step', timeoutMs: 60_000 },
    );
  const gone = orchestrator.start(args);
  const pid = await workerAtWork();
  t.match(
    readFileSync(`/proc/${pid}/mountinfo`, 'utf8'),
    `${orchestrator.dir}/run/nas-${pid}-`,
    'the worker has mounted the NAS',
  );
  t.notMatch(readFileSync('/proc/mounts', 'utf8'), `${orchestrator.dir}/run/nas-`, 'for itself alone');
  gone.kill('SIGKILL');
  await gone.result;
  const again = orchestrator.start(args);
  await until(
    async () => ((await orchestrator.log()).split('the daemon does').length > 2 ? true : undefined),
    {
      what: 'the second caller to be taken on',
      timeoutMs: 60_000,
    },
  );
  t.equal((await runsOf(client)).length, 1, 'who asks again finds the run of the first');
  process.kill(pid, 'SIGKILL');
  const second = await until(async () => ((await workerAtWork()) !== pid ? workerAtWork() : undefined), {
    what: 'another worker',
    timeoutMs: 60_000,
  });
  daemon.kill('SIGKILL');
  await daemon;
  process.kill(second, 'SIGCONT');
  const outcome = await again.result;
  t.match(outcome, { exitCode: 0, stdout: /^\d+\n$/ }, 'though both have died');
  t.match(await orchestrator.log(), /done without the daemon/);
  t.equal(readdirSync(join(nas, INSTANCE)).filter((name) => name.startsWith('2026')).length, 1);
  await expectTrue(path);
  t.strictSame((await vm.leftovers()).jobs, []);
});

t.test('SIGTERM to the caller ends the run in order', async (t) => {
  const { vm, nas, orchestrator } = await begin(t);
  const { client } = await orchestrator.startDaemon(t);
  const { args } = orchestrator.decide(INSTANCE, vm);
  const slow = orchestrator.start([...args, '-b', '1']);
  await until(async () => ((await runsOf(client)).at(0)?.progress?.doneBytes ? true : undefined), {
    what: 'it to copy',
    timeoutMs: 60_000,
  });
  slow.kill('SIGTERM');
  t.match(await slow.result, { exitCode: 1, stdout: /^cancelled: [^\n]+\n$/ });
  t.match(await runsOf(client), [{ state: 'cancelled' }]);
  t.strictSame(
    readdirSync(join(nas, INSTANCE)).filter((name) => /^2026|staging/.test(name)),
    [],
  );
  t.strictSame((await vm.leftovers()).bitmaps, []);
});

function pidOf(dir: string, run: string): number | null {
  try {
    return Number.parseInt(readFileSync(join(dir, 'state', 'daemon', 'work', run, 'pid'), 'latin1'), 10);
  } catch {
    return null;
  }
}
