/** `-q true` with a real guest: its filesystems are frozen for the moment, for no longer than the caller allows. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import { stringify } from 'yaml';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { expectAwake, expectThawed } from '../helpers/awake.ts';
import { boundTo, Orchestrator } from '../helpers/orchestrator.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { unreliableAgent } from '../helpers/unreliable-agent.ts';
import { testGuest } from '../helpers/vm.ts';

/** A VM is found by its name among all of this host. */
const INSTANCE = `i-${process.pid}-9-VM`;

t.test('a guest is frozen where that is asked for, and only as long as it may be', async (t) => {
  const qemu = qemuVersions(['7.2', '11.1'])[0] ?? '7.2';
  const disks = [{ name: 'data', sizeBytes: 64 * MiB }];
  const guest = await testGuest(t, { qemu, disks });
  const nas = tempDir(t);
  const orchestrator = new Orchestrator(t, { nas: boundTo(nas), bin: qemuBin(qemu) });
  const configure = (agent: string) =>
    writeFileSync(
      join(orchestrator.dir, 'config.yaml'),
      stringify({
        vaults: { own: { path: join(orchestrator.dir, 'own') } },
        vms: { [INSTANCE]: { qmp: guest.vm.qmpSocket, agent } },
      }),
    );
  const backUp = async (quiesce: boolean, ...more: string[]) => {
    const { args, path, volumes } = orchestrator.decide(INSTANCE, guest.vm, { quiesce });
    const { exitCode, stdout } = await orchestrator.run([...args, ...more]);
    t.match(stdout, /^\d+\n$/, 'and nothing but the size is said');
    t.equal(exitCode, 0);
    const folder = join(nas, path);
    const image = join(folder, volumes.at(-1) ?? '');
    return { manifest: JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8')), image };
  };

  configure(guest.agentSocket);
  await guest.sh('echo written >/mnt/data/file');
  const frozen = await backUp(true);
  t.match(frozen.manifest, { consistency: 'filesystem' });
  t.ok(frozen.manifest.timings.freezeMs > 0);
  const raw = join(orchestrator.dir, 'raw');
  await execa('qemu-img', ['convert', '-O', 'raw', frozen.image, raw]);
  const { stdout } = await execa('/sbin/debugfs', ['-R', 'cat /file', raw]);
  t.equal(stdout, 'written', 'what was not synced yet is in it');
  await expectThawed(t, guest);
  t.match((await backUp(false)).manifest, { consistency: 'crash', timings: { freezeMs: null } });

  const late = await unreliableAgent(t, guest.agentSocket, { command: 'guest-fsfreeze-freeze', how: 'late' });
  configure(late.path);
  t.match((await backUp(true, '--quiesce-timeout', '1')).manifest, { consistency: 'crash' });
  const { waitedMs } = late;
  t.ok(
    waitedMs !== null && waitedMs >= 900 && waitedMs < 6_000,
    `it was waited for: ${waitedMs} ms, not 8 s`,
  );
  t.match(await orchestrator.log(), /not frozen: [^\n]*no reply to guest-fsfreeze-freeze/);
  await expectAwake(t, guest, 2_000);
  await expectThawed(t, guest);
});
