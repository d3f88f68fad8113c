/** Restores into the images of a stopped VM: what is there at each step, and that the next backup is right. */
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { execa } from 'execa';
import t, { type Test } from 'tap';
import { diskName, vmName } from '../../src/base/ids.ts';
import { noSteps, type ReachStep, STEPS, type Step } from '../../src/base/steps.ts';
import { MiB } from '../../src/base/units.ts';
import { type OperationContext, perform } from '../../src/operations/index.ts';
import { restoreInPlace } from '../../src/restore/in-place.ts';
import { Replacement } from '../../src/restore/replacement.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import { openVault } from '../../src/vault/vault.ts';
import { type DiskSpec, type FixtureVm, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { cli } from '../helpers/cli.ts';
import { backUpWithTruth, expectTruth, type TestSite, testSite } from '../helpers/engine.ts';
import { difference } from '../helpers/images.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { readOnlyView } from '../helpers/read-only-view.ts';
import { testVm } from '../helpers/vm.ts';

const DISKS: readonly DiskSpec[] = [
  { name: 'vda', sizeBytes: 64 * MiB, withBacking: true },
  { name: 'vdb', sizeBytes: 64 * MiB, attach: 'virtio-scsi' },
];
const vm1 = vmName('vm1');

interface Given {
  readonly site: TestSite;
  readonly vm: FixtureVm;
  /** A full, and an increment on it. */
  readonly points: Manifest[];
  write(pattern: number): Promise<void>;
  /** As a command does. */
  restore(point: string, wishes?: { keepOld?: boolean; qmp?: string }): ReturnType<typeof perform<'restore'>>;
}

/** The VM goes on after the second point, and is stopped. */
async function given(t: Test, qemu: QemuVersion, disks = DISKS): Promise<Given> {
  const vm = await testVm(t, { qemu, disks });
  const site = await testSite(t, { bin: qemuBin(qemu) });
  const write = async (pattern: number) => {
    for (const { name } of vm.disks) await vm.write(name, pattern, (pattern % 20) * MiB, 2 * MiB);
  };
  const points: Manifest[] = [];
  for (const pattern of [1, 2]) {
    await write(pattern);
    points.push(await backUpWithTruth(site, vm));
  }
  await write(3);
  await vm.quit();
  const context: OperationContext = { engine: site.engine };
  const vault = site.vault.path;
  return {
    site,
    vm,
    points,
    write,
    restore: (point, wishes = {}) =>
      perform('restore', { vault, vm: vm1, point, inPlace: true, ...wishes }, context),
  };
}

/** Of which point the disks of the VM are; `null`: of none. */
async function momentsOf({ site, vm, points }: Given): Promise<(number | null)[]> {
  return Promise.all(
    vm.disks.map(async ({ name, image }) => {
      for (const [i, { id }] of points.entries()) {
        if ((await difference(image, join(site.dir, `truth-${id}-${name}`))) === null) return i;
      }
      return null;
    }),
  );
}

/** Names beside the images that were not there before any restore. */
function strangers({ vm }: Given): string[] {
  const known = /^(vd[a-z](\.base)?\.(qcow2|raw)|.*\.sock|qemu\.(log|out))$/;
  return readdirSync(vm.dir).filter((name) => !known.test(name));
}

function journals({ engine }: TestSite): string[] {
  const folder = join(engine.stateDir, 'in-place');
  return existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [];
}

/** What it was about to do next. */
function renameFirst(site: TestSite): void {
  const [path = ''] = journals(site);
  const { images } = JSON.parse(readFileSync(path, 'utf8')) as { images: { image: string; part: string }[] };
  renameSync(images[0]!.part, images[0]!.image);
}

async function writeOffline(image: string): Promise<void> {
  await execa('qemu-io', ['-f', 'qcow2', '-c', `write -P 8 ${50 * MiB} ${MiB}`, image]);
}

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(
    `QEMU ${qemu}: the VM goes on from the point, and its next backup is a thin increment onto it`,
    async (t) => {
      const all = await given(t, qemu);
      const { site, vm, points, write, restore } = all;
      const [first, second] = points as [Manifest, Manifest];
      const before = statSync(vm.disk('vdb').image);
      const { restored, warnings, kept } = await restore(first.id, { keepOld: true, qmp: vm.qmpSocket });
      t.match(
        restored,
        vm.disks.map(({ name: disk, image: path }) => ({ disk, path })),
      );
      t.match(warnings, [/stood on .*vda\.base\.qcow2/]);
      t.same(await momentsOf(all), [0, 0]);
      t.match(kept, [/vda\.qcow2\.before-/, /vdb\.qcow2\.before-/]);
      t.equal(statSync(kept![1]!).ino, before.ino, 'the old image is kept as it was');
      t.equal(statSync(vm.disk('vdb').image).mode, before.mode);
      for (const path of kept ?? []) rmSync(path);

      const offline = await backUpWithTruth(site, vm);
      t.match(offline, { how: 'branched', parent: first.id }, offline.why);
      t.ok(
        offline.disks.every(({ copiedBytes }) => copiedBytes <= 2 * MiB),
        'nothing but the pattern',
      );
      await vm.restart();
      await vm.verify('vdb', 1, MiB, 2 * MiB);
      await write(4);
      points.push(offline, await backUpWithTruth(site, vm));
      t.match(points.at(-1), { how: 'tracked', parent: offline.id });
      await t.rejects(restore(second.id, { qmp: vm.qmpSocket }), { code: 'vm-busy' });
      await t.rejects(restore(second.id), { code: 'vm-busy' }, 'its images are locked');

      await vm.quit();
      rmSync(vm.disk('vda').image);
      t.match(await restore('latest'), { kept: [], warnings: [] }, 'an image that was lost comes back too');
      t.same(strangers(all), []);
      await vm.restart();
      await write(5);
      points.push(await backUpWithTruth(site, vm));
      t.match(points.at(-1), { how: 'tracked', parent: points.at(-2)!.id });
      for (const point of points) await expectTruth(t, site, vm, point);
    },
  );
}

t.test(
  'killed at each step, each image is the old or the new one, and the next command ends it',
  async (t) => {
    const [qemu = '7.2'] = qemuVersions(['7.2', '11.1']);
    const all = await given(t, qemu);
    const { site, vm, points } = all;
    const argv = [
      'restore',
      'vm1',
      points[0]!.id,
      '--in-place',
      '--vault',
      site.vault.path,
      '--qemu-bin',
      vm.bin,
    ];
    const ends: [Step, (number | null)[], (number | null)[]][] = [
      ['place-journal', [null, null], [null, null]],
      ['place-switch', [null, null], [null, null]],
      ['place-link', [null, null], [0, 0]],
      ['place-rename', [0, null], [0, 0]],
      ['place-close', [0, 0], [0, 0]],
    ];
    t.strictSame(
      ends.map(([step]) => step),
      [...STEPS['restore in place']],
    );
    for (const [step, killed, ended] of ends) {
      const { signal, stderr } = await cli(site, argv, { QMPVAULT_STOP_AT: step });
      t.match({ signal, stderr }, { signal: 'SIGKILL', stderr: new RegExp(`step ${step}`) });
      if (step === 'place-rename') renameFirst(site);
      t.same(await momentsOf(all), killed, `killed at ${step}`);
      const { warnings } = await perform(
        'backup',
        { vault: site.vault.path, vm: 'vm1', qmp: vm.qmpSocket },
        { engine: site.engine },
      );
      t.equal(warnings.length, step === 'place-journal' ? 0 : 1, warnings.join());
      t.same(await momentsOf(all), ended, `${step}: ended by the next backup`);
      t.same(strangers(all), [], `${step}: nothing is left`);
      t.same(journals(site), []);
      for (const { image } of vm.disks) await writeOffline(image);
    }
  },
);

t.test('a VM that ran after a restore in place was killed keeps what it wrote', async (t) => {
  const [qemu = '7.2'] = qemuVersions(['7.2', '11.1']);
  const all = await given(t, qemu);
  const { site, vm, points } = all;
  const kill = async (step: Step) => {
    const argv = [
      'restore',
      'vm1',
      points[0]!.id,
      '--in-place',
      '--vault',
      site.vault.path,
      '--qemu-bin',
      vm.bin,
    ];
    const { signal } = await cli(site, argv, { QMPVAULT_STOP_AT: step });
    t.equal(signal, 'SIGKILL');
  };
  const warning = () => Replacement.finish(site.engine, site.vault, vm1);
  await kill('place-link');
  await writeOffline(vm.disk('vdb').image);
  t.match(await warning(), [/given up/]);
  t.same([await momentsOf(all), strangers(all), journals(site)], [[null, null], [], []]);

  await kill('place-rename');
  renameFirst(site);
  for (const { image } of vm.disks) await writeOffline(image);
  t.match(await warning(), [/only these are of the point: .*vda\.qcow2 \(before: /]);
  t.match([await momentsOf(all), strangers(all), journals(site)], [[null, null], [/vda.*\.old$/], []]);

  await kill('place-close');
  for (const { image } of vm.disks) await writeOffline(image);
  t.match(await warning(), [/finished now/]);
  t.match([strangers(all), journals(site)], [[/vda.*\.old$/], []]);
});

t.test('killed between two disks, or failing there, a VM never finds two moments', async (t) => {
  const [qemu = '7.2'] = qemuVersions(['7.2', '11.1']);
  const all = await given(t, qemu);
  const { site, vm, points } = all;
  const stopAt = (act: () => Promise<unknown>): ReachStep => {
    let nth = 0;
    return async (step) => {
      if (step === 'place-rename' && ++nth === 2) await act();
    };
  };
  const run = (reachStep = noSteps) =>
    restoreInPlace({ ...site.engine, reachStep }, site.vault, {
      vm: vm1,
      point: points[0]!.id,
      keepOld: false,
    });
  const starting = run(
    stopAt(async () => {
      t.same(await momentsOf(all), [0, null], 'the first is new, the second is old');
      await t.rejects(vm.restart(), 'a VM that starts right now does not');
      throw new Error('the second fails');
    }),
  );
  await t.rejects(starting, { message: 'the second fails' });
  t.same(await momentsOf(all), [null, null], 'the first was put back');
  t.same(strangers(all), []);

  const snapshot = join(dirname(vm.disk('vdb').image), 'snap.qcow2');
  await execa('qemu-img', [
    'create',
    '-q',
    '-f',
    'qcow2',
    '-b',
    vm.disk('vdb').image,
    '-F',
    'qcow2',
    snapshot,
  ]);
  await t.rejects(run(), { code: 'vm-unfit', details: { overlay: snapshot } });
  rmSync(snapshot);
  const lease = await site.vault.vm('vm1').acquireLease({ what: 'a backup' });
  await t.rejects(run(), { code: 'vault-locked' }, 'no backup of it may be at work');
  await lease.release();
  t.same(await momentsOf(all), [null, null]);

  const vault = await openVault(readOnlyView(t, site.vault.path), {
    memory: new VaultMemory(site.engine.stateDir),
  });
  const request = { vm: vm1, point: points[0]!.id, keepOld: false };
  await restoreInPlace(site.engine, vault, request);
  t.same(await momentsOf(all), [0, 0], 'from a vault that is mounted read-only, too');
});

t.test(
  'a raw disk is compared by the next backup, and a disk that is no more of the VM is left',
  async (t) => {
    const [qemu = '7.2'] = qemuVersions(['7.2', '11.1']);
    const all = await given(t, qemu, [DISKS[1]!, { name: 'vdc', sizeBytes: 64 * MiB, format: 'raw' }]);
    const { site, vm, points, restore } = all;
    t.match(await restore(points[0]!.id), { warnings: [] });
    const { image } = vm.disk('vdc');
    t.equal((await execa('cmp', [image, join(site.dir, `truth-${points[0]!.id}-vdc`)])).exitCode, 0);
    const next = await backUpWithTruth(site, vm);
    t.match(next, { how: 'resynced', parent: points[1]!.id }, next.why);
    await expectTruth(t, site, vm, next);

    await site.backUp(vm, { exclude: [diskName('vdc')] });
    rmSync(image);
    const less = await site.vault.vm('vm1').readRecord();
    t.match(less, { disks: [{ name: 'vdb' }, { name: 'vdc' }] });
    const lease = await site.vault.vm('vm1').acquireLease({ what: 'a test' });
    await site.vault.vm('vm1').writeRecord({ ...less!, disks: less!.disks.slice(0, 1) }, lease);
    await lease.release();
    const { restored, warnings } = await restore(points[0]!.id);
    t.match([restored.map(({ disk }) => disk), warnings], [['vdb'], [/vdc .* no disk of the VM any more/]]);
    t.notOk(existsSync(image));
  },
);
