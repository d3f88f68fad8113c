/** Rows 1 and 2: the engine is killed at each step of a full and of an incremental, and started again. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { until } from '../../src/base/deadline.ts';
import { STEPS, type Step } from '../../src/base/steps.ts';
import { GiB, MiB } from '../../src/base/units.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { type FixtureVm, qemuBin } from '../../vm-fixtures/guestless.ts';
import { cli } from '../helpers/cli.ts';
import {
  backUpWithTruth,
  expectClean,
  expectTruth,
  type TestSite,
  testSite,
  writerPid,
} from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { expectCleanImages } from '../helpers/stopped.ts';
import { testVm } from '../helpers/vm.ts';

/** Every other run is a full. Holes are asked for in a full only. */
const isFull = (step: string, nth: number) => nth % 2 === 0 || step === 'holes';
/** Killed at these, a run has a point in the end. */
const STANDS: readonly Step[] = ['copying', 'copied', 'synced', 'publish', 'published'];

function saidAfter(step: Step): RegExp[] {
  if (step === 'journal' || step === 'published') return [];
  return [STANDS.includes(step) ? /was finished/ : /was taken back/];
}

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: the run of an engine killed at any step is finished or taken back`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        // With holes that are worth asking for.
        { name: 'vda', sizeBytes: 3 * GiB },
        { name: 'vdb', sizeBytes: 16 * MiB, attach: 'virtio-scsi', iothread: true },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const isRunning = async () => {
      const { status } = (await vm.qmp.execute('query-status')) as { status: string };
      return status === 'running' || undefined;
    };
    const points = new Map<string, Manifest>([['first', await backUpWithTruth(site, vm)]]);
    for (const [nth, step] of STEPS.backup.entries()) {
      for (const { name } of vm.disks) await vm.write(name, nth + 1, 4 * MiB, 3 * MiB);
      await keepTruth(site, vm, step);
      await killedAt(t, site, step, [
        '--qmp',
        vm.qmpSocket,
        '--full-every=99',
        ...(isFull(step, nth) ? ['--full'] : []),
      ]);
      await until(isRunning, { what: `the guest to run again after ${step}`, timeoutMs: 10_000 });
      for (const { name } of vm.disks) await vm.write(name, nth + 100, 9 * MiB, MiB);
      await keepTruth(site, vm, `after ${step}`);

      const { point, adopted, warnings } = await site.backUp(vm, { fullEvery: 99 });
      t.equal(point.how, 'tracked', `${step}: the next is a tracked incremental`);
      points.set(`after ${step}`, point);
      t.match(warnings, saidAfter(step), `${step}: that is said`);
      t.equal(adopted !== null, STANDS.includes(step), `${step}: its point stands, or it does not`);
      if (adopted !== null) {
        t.equal(point.parent, adopted.id, 'the next stands on it');
        t.equal(adopted.kind, isFull(step, nth) ? 'full' : 'incremental');
        t.equal(
          adopted.disks.find(({ sha256 }) => sha256 === null),
          undefined,
          'it is digested',
        );
        points.set(step, adopted);
      }
      await expectClean(t, site, vm, { bitmaps: 1 });
    }
    for (const [label, point] of points) {
      await expectTruth(t, site, vm, point, label === 'first' ? point.id : label);
    }
    const published = (await readdir(join(site.vault.path, 'vm1'))).filter((name) => /^\d/.test(name));
    t.strictSame(published, [...points.values()].map(({ id }) => id).sort(), 'there are no other points');
  });

  const twoSmallDisks = (t: Test) =>
    testVm(t, {
      qemu,
      disks: [
        { name: 'vda', sizeBytes: 16 * MiB },
        { name: 'vdb', sizeBytes: 16 * MiB, attach: 'virtio-scsi', iothread: true },
      ],
    });
  type Jobs = { device: string; status: string; speed: number }[];
  const jobsIn = (vm: FixtureVm) => vm.qmp.execute('query-block-jobs') as Promise<Jobs>;
  /** Kills an engine whose jobs have most of their way before them. */
  const killInCopying = async (t: Test, site: TestSite, vm: FixtureVm) => {
    for (const { name } of vm.disks) await vm.write(name, 1, 0, 16 * MiB);
    await keepTruth(site, vm, 'moment');
    const run = cli(site, backup(site, '--qmp', vm.qmpSocket, '--full', '--bandwidth', '1MiB'));
    const limited = async () => {
      const found = await jobsIn(vm);
      return (found.length === 2 && found.every(({ speed }) => speed > 0)) || undefined;
    };
    await until(limited, { what: 'jobs with a limit', timeoutMs: 60_000 });
    run.kill('SIGKILL');
    t.equal((await run).signal, 'SIGKILL');
  };

  t.test(`QEMU ${qemu}: jobs that run on while their engine is dead are joined`, async (t) => {
    const vm = await twoSmallDisks(t);
    const site = await testSite(t, { bin: qemuBin(qemu) });
    await killInCopying(t, site, vm);
    for (const { name } of vm.disks) await vm.write(name, 2, 0, 16 * MiB);
    await killedAt(t, site, 'rejoin', ['--qmp', vm.qmpSocket]);
    const running: string[] = [];
    const { point, adopted } = await site.backUp(vm, {
      resume: true,
      steps: async (step) => {
        if (step === 'copying') running.push(...(await jobsIn(vm)).map(({ status }) => status));
      },
    });
    t.strictSame(running, ['running', 'running'], 'they were at work');
    t.equal(point.id, adopted?.id, 'a request that is repeated has the finished point as its result');
    await expectTruth(t, site, vm, point, 'moment');
    await expectClean(t, site, vm, { bitmaps: 1 });
    const again = await site.backUp(vm, { resume: true, point: point.id });
    t.equal(again.point.id, point.id, 'and again, by its id');
    const next = await backUpWithTruth(site, vm);
    t.equal(next.how, 'tracked');
    await expectTruth(t, site, vm, next);
  });

  t.test(`QEMU ${qemu}: what cannot be finished is taken back, and the next point is right`, async (t) => {
    const vm = await twoSmallDisks(t);
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const takenBack = async (t: Test, why: RegExp) => {
      const { point, adopted, warnings } = await site.backUp(vm);
      await keepTruth(site, vm, point.id);
      t.equal(adopted, null);
      t.match(warnings, [why]);
      await expectTruth(t, site, vm, point);
      await expectClean(t, site, vm, { bitmaps: 1 });
    };

    await t.test('its writer was killed too', async (t) => {
      await killInCopying(t, site, vm);
      process.kill(await writerPid(site), 'SIGKILL');
      await takenBack(t, /its writer is gone/);
    });

    await t.test('the VM was restarted', async (t) => {
      await killInCopying(t, site, vm);
      await vm.restart();
      await takenBack(t, /its copy jobs are not in the VM/);
    });

    await t.test('the NAS hangs, and with it the guest that was reset: it is freed', async (t) => {
      await killInCopying(t, site, vm);
      process.kill(await writerPid(site), 'SIGSTOP');
      for (const { device } of await jobsIn(vm)) {
        await vm.qmp.execute('block-job-set-speed', { device, speed: 0 });
      }
      const reset = vm.qmp.execute('system_reset');
      reset.catch(() => {});
      await t.rejects(
        vm.qmp.execute('query-status', {}, { timeoutMs: 500 }),
        { code: 'qmp-timeout' },
        'the main loop hangs',
      );
      await takenBack(t, /was taken back/);
      await reset;
    });
  });

  t.test(`QEMU ${qemu}: an engine killed while it compares leaves no NBD server behind`, async (t) => {
    const vm = await testVm(t, { qemu, disks: [{ name: 'vda', sizeBytes: 32 * MiB }] });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    await vm.write('vda', 1, 0, 16 * MiB);
    const first = await backUpWithTruth(site, vm);
    for (const { node, name } of (await vm.leftovers()).bitmaps) {
      await vm.qmp.execute('block-dirty-bitmap-remove', { node, name });
    }
    await vm.write('vda', 2, MiB, MiB);
    await killedAt(t, site, 'copying', ['--qmp', vm.qmpSocket]);
    t.equal((await vm.leftovers()).exports.length, 1, 'it was comparing');
    const second = await backUpWithTruth(site, vm);
    t.equal(second.how, 'resynced');
    for (const point of [first, second]) await expectTruth(t, site, vm, point);
    await expectClean(t, site, vm, { bitmaps: 1 });
  });

  for (const next of ['stopped', 'running'] as const) {
    t.test(
      `QEMU ${qemu}: an engine killed in an offline run, and the next finds the VM ${next}`,
      async (t) => {
        const vm = await testVm(t, {
          qemu,
          disks: [
            { name: 'vda', sizeBytes: 16 * MiB },
            { name: 'vdb', sizeBytes: 16 * MiB, attach: 'virtio-scsi' },
          ],
        });
        const site = await testSite(t, { bin: qemuBin(qemu) });
        const change = async (pattern: number) => {
          for (const { name } of vm.disks) await vm.write(name, pattern, (pattern % 7) * MiB, MiB);
        };
        const points = [await backUpWithTruth(site, vm)];
        for (const [nth, step] of STEPS['offline backup'].entries()) {
          await change(nth + 1);
          await vm.quit();
          await killedAt(t, site, step, isFull(step, nth) ? ['--full'] : []);
          if (next === 'running') {
            await vm.restart();
            await change(nth + 101);
          }
          const point = await backUpWithTruth(site, vm, { fullEvery: 99 });
          t.equal(point.how, 'tracked', `${step}: the next is a tracked incremental`);
          await expectTruth(t, site, vm, point);
          if (next === 'running') await expectClean(t, site, vm, { bitmaps: 1 });
          else await expectCleanImages(t, site, vm, { bitmaps: 1 });
          points.push(point);
          if (next === 'stopped') await vm.restart();
        }
        for (const point of points) await expectTruth(t, site, vm, point);
      },
    );
  }
}

function backup({ engine, vault }: TestSite, ...args: string[]): string[] {
  return [
    'backup',
    'vm1',
    '--vault',
    vault.path,
    '--qemu-bin',
    join(engine.tools.storageDaemon, '..'),
    ...args,
  ];
}

/** A backup whose engine kills itself at a step. A step that is never reached is a failure, too. */
async function killedAt(t: Test, site: TestSite, step: string, args: readonly string[]): Promise<void> {
  const killed = await cli(site, backup(site, ...args), { QMPVAULT_STOP_AT: `${step}:kill` });
  t.equal(killed.signal, 'SIGKILL', `${step}: killed ${killed.stdout}`.trimEnd());
  t.match(killed.stderr, `step ${step}`, `${step}: exactly there`);
}

/** What the disks hold now. */
async function keepTruth(site: TestSite, vm: FixtureVm, label: string): Promise<void> {
  for (const { name } of vm.disks) await vm.truth(name, join(site.dir, `truth-${label}-${name}`));
}
