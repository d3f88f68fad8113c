/** Row 47: a terminal's Ctrl-C, its hang-up, and output that nobody reads any more. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import t, { type Test } from 'tap';
import { until } from '../../src/base/deadline.ts';
import { MiB } from '../../src/base/units.ts';
import { describe, isAlive } from '../../src/image/process-id.ts';
import { type FixtureVm, qemuBin } from '../../vm-fixtures/guestless.ts';
import { type BackedUpVm, backedUpVm } from '../helpers/backed-up-vm.ts';
import { siteEnv } from '../helpers/cli.ts';
import { backUpWithTruth, expectClean, expectTruth, writerPid } from '../helpers/engine.ts';
import { expectUnharmed, GuestWriter } from '../helpers/guest-writer.ts';
import { QMPVAULT } from '../helpers/programs.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { signalIfThere } from '../helpers/temp-dir.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: whatever becomes of the terminal, no writer is half dead`, async (t) => {
    const given = await backedUpVm(t, qemu);
    const { vm, site, first, change } = given;
    const backup = [
      ...['backup', 'vm1', '--vault', site.vault.path, '--qmp', vm.qmpSocket, '--qemu-bin', qemuBin(qemu)],
      ...['--full', '--bandwidth', `${16 * MiB}`],
    ];
    const expectNextTracked = async (what: string) => {
      await change(3);
      const next = await backUpWithTruth(site, vm);
      t.match(next, { how: 'tracked' }, `${what}: the next is tracked`);
      for (const point of [first, next]) await expectTruth(t, site, vm, point);
      await expectClean(t, site, vm, { bitmaps: 1 });
    };

    await t.test('Ctrl-C, which reaches every process of the terminal', async (t) => {
      const guest = await GuestWriter.start(vm, 'vda');
      const { terminal, ended } = await onTerminal(t, given, backup);
      terminal.stdin.write('\x03');
      t.strictSame(await ended, [130, null]);
      await expectUnharmed(t, guest);
      await expectClean(t, site, vm, { bitmaps: 1 });
      await expectNextTracked('Ctrl-C');
    });

    await t.test('hang-up: the engine dies, its writer goes on and ends when it is told', async (t) => {
      const guest = await GuestWriter.start(vm, 'vda');
      const { terminal, ended } = await onTerminal(t, given, backup);
      // Orphaned it is a zombie until init looks: one whose init does so every two seconds left it in /proc (m).
      const writer = await describe(await writerPid(site));
      terminal.kill('SIGKILL');
      await ended;
      await until(async () => (await areConcluded(vm)) || undefined, {
        what: 'the copies to go on to their end',
        timeoutMs: 20_000,
      });
      t.ok(writer && (await isAlive(writer)), 'the writer has served them');
      await expectUnharmed(t, guest);
      await expectNextTracked('hang-up');
      t.notOk(writer && (await isAlive(writer)), 'and the next run ended it');
      const { points } = await site.vault.vm('vm1').points();
      t.match(points.at(-2), { kind: 'full', how: 'requested' }, 'when it had made a point of them');
    });

    await t.test('stdout and stderr that nobody reads', async (t) => {
      const env = { ...process.env, ...siteEnv(site) };
      const engine = spawn(process.execPath, [QMPVAULT, ...backup, '--json'], { env });
      t.teardown(() => engine.kill('SIGKILL'));
      engine.stdout.destroy();
      engine.stderr.destroy();
      t.strictSame(await once(engine, 'exit'), [0, null], 'the backup is made');
      const { points } = await site.vault.vm('vm1').points();
      t.match(points.at(-1), { kind: 'full', how: 'requested' });
      await expectNextTracked('no reader');
    });
  });
}

/** A backup at a terminal of its own; returns when its copies are under way. */
async function onTerminal(t: Test, { vm, site }: BackedUpVm, args: readonly string[]) {
  const command = [process.execPath, QMPVAULT, ...args].map((arg) => `'${arg}'`).join(' ');
  const terminal = spawn('script', ['--quiet', '--return', '--command', command, '/dev/null'], {
    env: { ...process.env, ...siteEnv(site) },
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  t.teardown(() => terminal.pid && signalIfThere(terminal.pid, 'SIGKILL'));
  const ended = once(terminal, 'exit');
  const copying = async () => (await vm.leftovers()).jobs.length === vm.disks.length || undefined;
  await until(copying, { what: 'the copy to begin', timeoutMs: 20_000 });
  return { terminal, ended };
}

async function areConcluded(vm: FixtureVm): Promise<boolean> {
  const jobs = (await vm.qmp.execute('query-jobs')) as { status: string }[];
  return jobs.every(({ status }) => status === 'concluded');
}
