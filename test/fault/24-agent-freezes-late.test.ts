/** Row 24: the guest freezes, and its agent's reply to that comes after everybody has given up on it. */
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { expectAwake, expectCrashConsistent, expectNextIsRight, expectThawed } from '../helpers/awake.ts';
import { cli } from '../helpers/cli.ts';
import { expectClean, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { unreliableAgent } from '../helpers/unreliable-agent.ts';
import { testGuest } from '../helpers/vm.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a guest whose agent answers a freeze too late is thawed`, async (t) => {
    const guest = await testGuest(t, {
      qemu,
      disks: [
        { name: 'data', sizeBytes: 64 * MiB },
        { name: 'more', sizeBytes: 64 * MiB, attach: 'virtio-scsi', iothread: true },
      ],
    });
    const { vm } = guest;
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const backup = ['backup', 'vm1', '--vault', site.vault.path, '--qmp', vm.qmpSocket, '--qemu-bin', vm.bin];

    await t.test('a freeze that was only tried: the point is made, and says what it is', async (t) => {
      const agent = await unreliableAgent(t, guest.agentSocket, {
        command: 'guest-fsfreeze-freeze',
        how: 'late',
      });
      const { exitCode, stdout } = await cli(site, [...backup, '--agent', agent.path]);
      t.ok(agent.fired);
      t.equal(exitCode, 0);
      const { point, warnings } = JSON.parse(stdout);
      t.match(point, { consistency: 'crash', timings: { freezeMs: null } });
      t.equal(warnings.length, 1);
      await expectAwake(t, guest, 2_000);
      await expectThawed(t, guest);
      await expectClean(t, site, vm, { bitmaps: 1 });
    });

    for (const how of ['wrong', 'endless'] as const) {
      await t.test(`a reply that is ${how}`, async (t) => {
        const agent = await unreliableAgent(t, guest.agentSocket, { command: 'guest-fsfreeze-freeze', how });
        await expectCrashConsistent(t, site, guest, agent);
      });
    }

    await t.test('a freeze that was required: the run fails, and nothing is left of it', async (t) => {
      const agent = await unreliableAgent(t, guest.agentSocket, {
        command: 'guest-fsfreeze-freeze',
        how: 'late',
      });
      const { exitCode, stdout } = await cli(site, [...backup, '--agent', agent.path, '--require-quiesce']);
      t.ok(agent.fired);
      t.match(JSON.parse(stdout), { error: { code: 'vm-agent' } });
      t.equal(exitCode, 4);
      await expectAwake(t, guest, 2_000);
      await expectThawed(t, guest);
      await expectClean(t, site, vm, { bitmaps: 1 });
      await expectNextIsRight(t, site, guest);
    });
  });
}
