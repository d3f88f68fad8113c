/** A real guest, backed up by the daemon: frozen by its agent, found again file by file. */
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { expectClean, testSite } from '../helpers/engine.ts';
import { testGuest } from '../helpers/vm.ts';

t.test('a real guest through the daemon: what it had written at the moment is in the point', async (t) => {
  const guest = await testGuest(t, { qemu: '7.2', disks: [{ name: 'data', sizeBytes: 64 * MiB }] });
  const site = await testSite(t);
  const config = { vms: { vm1: { qmp: guest.vm.qmpSocket, agent: guest.agentSocket, quiesce: 'required' } } };
  const { client, backUp } = await startDaemon(t, site, { config });
  await guest.sh('echo before >/mnt/data/file');
  t.match(await backUp({ vm: 'vm1' }), { result: { point: { consistency: 'filesystem' } } });
  await guest.sh('echo after >/mnt/data/file');
  const second = await backUp({ vm: 'vm1' });
  t.match(second, { state: 'succeeded', result: { point: { how: 'tracked', consistency: 'filesystem' } } });

  const to = join(site.dir, 'restored');
  const { points } = await client.call('point.list', { vm: 'vm1' });
  const contents: string[] = [];
  for (const [i, { id }] of points.entries()) {
    const wish = { vm: 'vm1', point: id, to: join(to, `${i}`), format: 'raw' } as const;
    t.match(await client.call('run.wait', await client.call('restore.start', wish)), { state: 'succeeded' });
    const image = join(to, `${i}`, 'data.raw');
    contents.push((await execa('/sbin/debugfs', ['-R', 'cat /file', image])).stdout);
  }
  t.strictSame(contents, ['before', 'after']);
  await expectClean(t, site, guest.vm, { bitmaps: 1, disks: 1 });
});
