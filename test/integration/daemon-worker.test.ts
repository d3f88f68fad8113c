/** Workers and readers: processes that may hang in the NAS and die, beside a daemon that does neither. */
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { Reader } from '../../src/daemon/reader.ts';
import { forgetAttempt } from '../../src/daemon/task.ts';
import { Worker, type WorkerPlace } from '../../src/daemon/worker.ts';
import type { Progress } from '../../src/operations/index.ts';
import type { FixtureVm } from '../../vm-fixtures/guestless.ts';
import { type TestSite, testSite } from '../helpers/engine.ts';
import { freezableMount } from '../helpers/freezable-mount.ts';
import type { Teardown } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

function placeIn({ dir }: TestSite): WorkerPlace {
  return { folder: join(dir, 'state', 'work'), socket: join(dir, 'worker.sock') };
}

function placesOf({ engine: { stateDir, runtimeDir, scratchDir } }: TestSite) {
  return { stateDir, runtimeDir, scratchDir };
}

async function startBackup(t: Teardown, site: TestSite, vm: FixtureVm, wishes: object = {}): Promise<Worker> {
  await forgetAttempt(placeIn(site).folder);
  const worker = await Worker.start(placeIn(site), {
    run: '0123abcd',
    operation: 'backup',
    params: { vault: site.vault.path, vm: 'vm1', qmp: vm.qmpSocket, ...wishes },
    places: placesOf(site),
    qemuBin: null,
    logLevel: 'info',
  });
  t.teardown(() => worker.giveUp());
  return worker;
}

/** Resolves when the worker tells of this phase. */
function phase(worker: Worker, wanted: string): Promise<Progress> {
  const { promise, resolve } = Promise.withResolvers<Progress>();
  worker.onProgress = (progress) => progress.phase === wanted && resolve(progress);
  return promise;
}

async function filledVm(t: Teardown): Promise<FixtureVm> {
  const vm = await testVm(t, { qemu: '7.2', disks: [{ name: 'vda', sizeBytes: 64 * MiB }] });
  await vm.write('vda', 1, 16 * MiB, 32 * MiB);
  return vm;
}

t.test(
  'a worker makes a point while the daemon is gone, and the next daemon reads how it ended',
  async (t) => {
    const [site, vm] = [await testSite(t), await filledVm(t)];
    const first = await startBackup(t, site, vm, { bandwidth: 8 * MiB });
    const { disks } = await phase(first, 'copying');
    t.match(disks, [{ name: 'vda', totalBytes: Number }]);
    first.release();
    t.equal(await first.ended, null, 'the daemon lets go');

    const again = await Worker.find(placeIn(site));
    t.strictSame(again?.id, first.id, 'the next one finds it at work');
    await phase(again as Worker, 'copying');
    again?.setBandwidth(undefined);
    const outcome = await again?.ended;
    t.match(outcome, { ok: true, result: { point: { kind: 'full', vm: 'vm1' } } });
    const ended = await (await Worker.find(placeIn(site)))?.ended;
    t.strictSame(ended, outcome, 'also when it ended while nobody listened');
  },
);

t.test('a worker is cancelled; one that is killed has no outcome', async (t) => {
  const [site, vm] = [await testSite(t), await filledVm(t)];
  const cancelled = await startBackup(t, site, vm, { bandwidth: MiB });
  await phase(cancelled, 'copying');
  cancelled.cancel('somebody does not want it');
  t.match(await cancelled.ended, {
    ok: false,
    error: { code: 'cancelled', message: 'somebody does not want it' },
  });

  const killed = await startBackup(t, site, vm, { bandwidth: MiB });
  await phase(killed, 'copying');
  process.kill(killed.id.pid, 'SIGKILL');
  t.equal(await killed.ended, null);
  const next = await startBackup(t, site, vm);
  t.match(await next.ended, { ok: true }, 'the next one cleans up after it');
});

t.test('what a worker refuses is told with its code', async (t) => {
  const [site, vm] = [await testSite(t), await filledVm(t)];
  const worker = await startBackup(t, site, vm, { vault: join(site.dir, 'none') });
  t.match(await worker.ended, { ok: false, error: { code: 'vault-missing', details: Object } });
});

t.test('a reader answers, and is left behind when the NAS hangs', async (t) => {
  const mount = freezableMount(t, 64 * MiB);
  const site = await testSite(t, { vault: join(mount.dir, 'vault') });
  const reader = new Reader({ places: placesOf(site), qemuBin: null }, 'the vault');
  t.teardown(() => reader.close());
  t.match(await reader.ask('list', { vault: site.vault.path }), { points: [] });
  await t.rejects(reader.ask('show', { vault: site.vault.path, vm: 'none' }), { code: 'vm-unknown' });

  mount.freeze();
  const sealing = { vault: site.vault.path, vm: 'vm1', point: 'latest' };
  // Reading a frozen filesystem works, writing to it hangs.
  await t.rejects(reader.ask('init', { vault: join(mount.dir, 'new') }, { timeoutMs: 500 }), {
    code: 'vault-away',
  });
  t.match(await reader.ask('list', { vault: site.vault.path }), { points: [] }, 'another one answers');
  mount.thaw();
  await t.rejects(reader.ask('seal', sealing), { code: 'point-unknown' });
});

t.test('a vault that is not there is no empty one', async (t) => {
  const site = await testSite(t);
  const reader = new Reader({ places: placesOf(site), qemuBin: null }, 'the vault');
  t.teardown(() => reader.close());
  await reader.ask('stats', { vault: site.vault.path });
  await rename(site.vault.path, `${site.vault.path}-away`);
  await t.rejects(reader.ask('list', { vault: site.vault.path }), { code: 'vault-away' });
});
