/** Instant restores: a VM that runs on overlays of a point, what is kept from it meanwhile, and how it is filled. */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import t, { type Test } from 'tap';
import type { RunControl } from '../../src/backup/engine.ts';
import { fillVm } from '../../src/backup/fill.ts';
import { diskName, vmName } from '../../src/base/ids.ts';
import { noSteps, type ReachStep } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { imageInfo } from '../../src/image/qemu-img.ts';
import { endHold } from '../../src/restore/holds.ts';
import { restoreInstantly } from '../../src/restore/instant.ts';
import { changeFinisher, deletePoint } from '../../src/upkeep/delete.ts';
import { prune } from '../../src/upkeep/prune.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import { openVault, type Vault } from '../../src/vault/vault.ts';
import { type DiskSpec, type FixtureVm, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, type TestSite, testSite } from '../helpers/engine.ts';
import { difference } from '../helpers/images.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { testVm } from '../helpers/vm.ts';

const DISKS: readonly DiskSpec[] = [
  { name: 'vda', sizeBytes: 64 * MiB },
  { name: 'vdb', sizeBytes: 64 * MiB, attach: 'virtio-scsi', iothread: true },
];
const vm1 = vmName('vm1');

interface FillWishes extends Pick<RunControl, 'onProgress'> {
  readonly bandwidth?: number;
  readonly noProgressMs?: number;
}

interface Given {
  readonly site: TestSite;
  readonly vm: FixtureVm;
  /** As commands that change points open it. */
  readonly vault: Vault;
  /** A full, and two increments on it. */
  readonly points: readonly Manifest[];
  /** Where the instant restores go. */
  readonly to: string;
  restore(point: string, steps?: ReachStep): ReturnType<typeof restoreInstantly>;
  fill(steps?: ReachStep, wishes?: FillWishes): ReturnType<typeof fillVm>;
}

async function given(t: Test, qemu: QemuVersion): Promise<Given> {
  const vm = await testVm(t, { qemu, disks: DISKS });
  const site = await testSite(t, { bin: qemuBin(qemu) });
  const memory = new VaultMemory(site.engine.stateDir);
  const vault = await openVault(site.vault.path, { memory, finishChange: changeFinisher(site.engine) });
  const points: Manifest[] = [];
  for (const pattern of [1, 2, 3]) {
    for (const { name } of DISKS) await vm.write(name, pattern, pattern * 8 * MiB, 12 * MiB);
    points.push(await backUpWithTruth(site, vm));
  }
  const to = join(site.dir, 'restored');
  const { engine } = site;
  return {
    site,
    vm,
    vault,
    points,
    to,
    restore: (point, reachStep = noSteps) =>
      restoreInstantly({ ...engine, reachStep }, vault, { vm: vm1, point, target: { dir: to } }),
    fill: (reachStep = noSteps, { onProgress, ...wishes } = {}) =>
      fillVm({ ...engine, reachStep }, vault, { vm: vm1, qmp: vm.qmpSocket, ...wishes }, { onProgress }),
  };
}

/** The guest writes to both disks, is sure of it, and its QEMU is killed. */
async function writeAndKill(vm: FixtureVm, pattern: number, offset: number): Promise<void> {
  for (const { name } of DISKS) {
    await vm.write(name, pattern, offset, MiB);
    await vm.flush(name);
  }
  await vm.kill();
}

function images(to: string): Record<string, string> {
  return Object.fromEntries(DISKS.map(({ name }) => [name, join(to, `${name}.qcow2`)]));
}

async function backingLinks({ to, site }: Given): Promise<(string | null)[]> {
  const infos = await Promise.all(
    Object.values(images(to)).map((path) => imageInfo(site.engine.tools, { path, format: 'qcow2' })),
  );
  return infos.map(({ backingLink }) => backingLink);
}

/** Every disk of the restored VM reads as the point did, but for what was written since. */
async function expectFilled(t: Test, all: Given, written: Readonly<Record<string, number>>): Promise<void> {
  const { vm, site, points, to } = all;
  for (const { name } of DISKS) {
    for (const [offset, pattern] of Object.entries(written))
      await vm.verify(name, pattern, Number(offset), MiB);
    await vm.verify(name, 1, 8 * MiB, 8 * MiB);
    await vm.verify(name, 2, 16 * MiB, 12 * MiB);
  }
  await vm.quit();
  t.same(await backingLinks(all), [null, null], 'nothing stands on the vault');
  for (const { name } of DISKS) {
    for (const offset of Object.keys(written)) await reset(all, name, Number(offset));
    const found = await difference(
      join(to, `${name}.qcow2`),
      join(site.dir, `truth-${points[1]!.id}-${name}`),
    );
    t.equal(found, null, `${name} is what it was at the point, but for what the guest wrote`);
  }
}

/** What was written lay where the point had zeroes. */
async function reset({ to, site }: Given, name: string, offset: number): Promise<void> {
  const zero = `write -z ${offset} ${MiB}`;
  await execa(site.engine.tools.qemuIo, ['-f', 'qcow2', '-c', zero, join(to, `${name}.qcow2`)]);
}

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(
    `QEMU ${qemu}: a VM runs on a point, is killed while it is filled, and needs the vault no more`,
    async (t) => {
      const all = await given(t, qemu);
      const { site, vm, vault, points, to } = all;
      const [full, second, third] = points.map(({ id }) => id) as string[] as [string, string, string];
      await vm.quit();
      const began = performance.now();
      const { hold, restored, warnings } = await all.restore(second);
      t.comment(`${Math.round(performance.now() - began)} ms`);
      t.same(warnings, []);
      t.match(restored, [{ disk: 'vda', path: join(to, 'vda.qcow2'), virtualSizeBytes: 64 * MiB }, {}]);
      t.match(await vault.vm('vm1').holds(), [{ id: hold, point: second, disks: [{ name: 'vda' }, {}] }]);
      t.same(readdirSync(join(vault.path, 'vm1', 'readers')), [], 'no process is needed for it');

      await vm.restart({ images: images(to) });
      await vm.verify('vda', 2, 16 * MiB, 12 * MiB);
      for (const { name } of DISKS) await vm.write(name, 9, 60 * MiB, MiB);
      const keep = { vm: vm1, keep: { last: 1 }, timeZone: 'UTC' };
      for (const point of [full, second]) {
        const deleting = deletePoint(site.engine, vault, { vm: vm1, point, descendants: 'keep' });
        await t.rejects(deleting, { code: 'point-held', details: { hold } });
      }
      await t.rejects(endHold(vault.vm('vm1'), { id: hold, force: false }), { code: 'point-held' });
      t.match(await prune(site.engine, vault, keep), {
        removed: [],
        warnings: [/instant restore/, /instant/],
      });

      const stalled = all.fill(noSteps, { bandwidth: 4096, noProgressMs: 500 });
      await t.rejects(stalled, { code: 'run-stalled' }, 'one that gets no further is left to itself');
      const [job] = (await vm.qmp.execute('query-block-jobs')) as [{ device: string }];
      await vm.qmp.execute('block-job-set-speed', { device: job.device, speed: 32 * MiB });

      let kill: Promise<void> | undefined;
      const killed = all.fill(noSteps, {
        onProgress: ({ disks: [vda] }) => {
          const isHalf = vda !== undefined && vda.doneBytes > 0 && vda.doneBytes < vda.totalBytes;
          if (isHalf) kill ??= writeAndKill(vm, 7, 50 * MiB);
        },
      });
      await t.rejects(killed, { code: 'vm-lost' }, 'QEMU killed in the middle');
      await kill;
      await vm.restart();
      const atTheEnd = all.fill(async (step) => {
        if (step === 'fill-finalize') await writeAndKill(vm, 6, 52 * MiB);
      });
      await t.rejects(atTheEnd, { code: 'vm-lost' }, 'QEMU killed when all was copied');
      await vm.restart();
      for (const at of ['fill-release', 'fill-finalize']) {
        const dying = all.fill(async (step) => {
          if (step === at) throw new Error('the engine dies');
        });
        await t.rejects(dying, { message: 'the engine dies' }, at);
      }
      t.match(
        await vault.vm('vm1').holds(),
        [{ disks: [{ name: 'vdb' }] }],
        'the other one was filled by then',
      );
      t.match(await all.fill(), { filled: [{ disk: 'vdb' }], left: [] });
      t.same(await vault.vm('vm1').holds(), []);
      await t.rejects(all.fill(), { code: 'disk-unknown' });
      await expectClean(t, site, vm, { bitmaps: 1 });
      await expectFilled(t, all, { [60 * MiB]: 9, [50 * MiB]: 7, [52 * MiB]: 6 });

      t.match(await deletePoint(site.engine, vault, { vm: vm1, point: third, descendants: 'keep' }), {});
    },
  );

  t.test(
    `QEMU ${qemu}: what runs on a point is backed up as a thin increment on it, also while it is filled`,
    async (t) => {
      const all = await given(t, qemu);
      const { site, vm, points, to } = all;
      await vm.quit();
      await all.restore(points[1]!.id);
      await vm.restart({ images: images(to) });
      for (const { name } of DISKS) await vm.write(name, 9, 60 * MiB, MiB);
      const begun = Promise.withResolvers<void>();
      // Slow enough that it is under way during the backup.
      const filling = all.fill(noSteps, { bandwidth: 12 * MiB, onProgress: () => begun.resolve() });
      await begun.promise;
      const underWay: string[] = [];
      const point = await backUpWithTruth(site, vm, {
        steps: async (step) => {
          const jobs = step === 'inserted' || step === 'copied' ? await vm.qmp.execute('query-jobs') : [];
          underWay.push(
            ...(jobs as { type: string; status: string }[]).map(({ type, status }) => `${type} ${status}`),
          );
        },
      });
      t.equal(
        underWay.filter((job) => job === 'stream running').length,
        2,
        'from before the moment to the end',
      );
      t.match(point, { how: 'branched', parent: points[1]!.id }, point.why);
      t.ok(point.disks.every(({ copiedBytes }) => copiedBytes <= 4 * MiB));
      t.match(await filling, { filled: [{}, {}] });
      for (const { name } of DISKS) await vm.write(name, 8, 61 * MiB, MiB);
      const next = await backUpWithTruth(site, vm);
      t.match(next, { how: 'tracked', parent: point.id });
      for (const made of [...points, point, next]) await expectTruth(t, site, vm, made);
      await expectClean(t, site, vm, { bitmaps: 1 });
    },
  );
}

t.test('killed while it is made, the same instant restore takes the place of its leftovers', async (t) => {
  const [qemu = '7.2'] = qemuVersions(['7.2', '11.1']);
  const all = await given(t, qemu);
  const { vault, points, to, vm } = all;
  await vm.quit();
  const folder = vault.vm('vm1');
  const failing = all.restore(points[2]!.id, async (step) => {
    if (step === 'instant-publish') throw new Error('no');
  });
  await t.rejects(failing, { message: 'no' });
  t.same([await folder.holds(), existsSync(to)], [[], false], 'one that fails leaves nothing');

  const disks = [{ name: diskName('vda'), path: join(to, 'vda.qcow2') }];
  await folder.addHold({ point: points[0]!.id, what: 'instant restore', disks });
  const { hold } = await all.restore(points[2]!.id);
  t.match(await folder.holds(), [{ id: hold, point: points[2]!.id }], 'the one that was killed is over');
  await t.rejects(all.restore(points[0]!.id), { code: 'target-exists' });
  rmSync(to, { recursive: true });
  await endHold(folder, { id: hold, force: false });
  t.same(await folder.holds(), [], 'overlays that were removed need nothing');
  await t.rejects(endHold(folder, { id: hold, force: false }), { code: 'point-unknown' });
});
