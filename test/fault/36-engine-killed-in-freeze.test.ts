/**
 * Row 36, with a real guest: the engine dies, or hangs, between freeze and thaw and between stop and cont. Nobody
 * runs another command; the guest goes on by itself.
 */
import { once } from 'node:events';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import type { LinuxGuest } from '../../vm-fixtures/linux-guest.ts';
import { expectAwake, expectNextIsRight, expectThawed } from '../helpers/awake.ts';
import { cli } from '../helpers/cli.ts';
import { type TestSite, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testGuest } from '../helpers/vm.ts';

/** `frozen`: the filesystems are frozen, the guest runs. `stopped`: it is paused besides. */
const STEPS = ['frozen', 'stopped'];
/** The guard's limit for a pause, and some time to act and for a busy machine. */
const HUNG_MS = 10_000 + 5_000;
const KILLED_MS = 10_000;

function startBackup(site: TestSite, guest: LinuxGuest, stopAt: string) {
  const { agentSocket, vm } = guest;
  const where = ['--vault', site.vault.path, '--qmp', vm.qmpSocket, '--agent', agentSocket];
  return cli(site, ['backup', 'vm1', ...where, '--qemu-bin', vm.bin], { QMPVAULT_STOP_AT: stopAt });
}

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a guest whose engine dies or hangs in the moment goes on by itself`, async (t) => {
    const guest = await testGuest(t, {
      qemu,
      disks: [
        { name: 'data', sizeBytes: 64 * MiB },
        { name: 'more', sizeBytes: 64 * MiB, attach: 'virtio-scsi', iothread: true },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    await site.backUp(guest.vm, { agent: guest.agentSocket });

    for (const step of STEPS) {
      await t.test(`killed at '${step}'`, async (t) => {
        const { signal, stderr } = await startBackup(site, guest, `${step}:kill`);
        t.equal(signal, 'SIGKILL');
        t.match(stderr, `step ${step}`);
        await expectAwake(t, guest, KILLED_MS);
        await expectThawed(t, guest);
        await expectNextIsRight(t, site, guest);
      });

      await t.test(`hung at '${step}', and revived`, async (t) => {
        const engine = startBackup(site, guest, `${step}:stop`);
        t.teardown(() => engine.kill('SIGKILL'));
        const said = await Promise.race([once(engine.stderr, 'data'), engine]);
        t.match(`${said}`, `step ${step}`);
        await expectAwake(t, guest, HUNG_MS);
        engine.kill('SIGCONT');
        const { exitCode, stdout } = await engine;
        t.match(JSON.parse(stdout), { error: { code: 'guard-failed' } }, 'it sees that its moment is gone');
        t.equal(exitCode, 5);
        await expectThawed(t, guest);
        await expectNextIsRight(t, site, guest);
      });
    }
  });
}
