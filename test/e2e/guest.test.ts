/** The main promise: a real guest that never stops writing, and guests that boot from what was restored of it. */
import { readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import t, { type Test } from 'tap';
import { fillVm } from '../../src/backup/fill.ts';
import { vmName } from '../../src/base/ids.ts';
import { MiB } from '../../src/base/units.ts';
import { restoreInstantly } from '../../src/restore/instant.ts';
import { restorePoint } from '../../src/restore/restore.ts';
import { verify } from '../../src/upkeep/verify.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { type DiskSpec, type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { type LinuxGuest, linuxArgs } from '../../vm-fixtures/linux-guest.ts';
import { expectClean, type TestSite, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { testGuest } from '../helpers/vm.ts';

const DISKS: readonly DiskSpec[] = [
  { name: 'data', sizeBytes: 128 * MiB },
  { name: 'more', sizeBytes: 128 * MiB, attach: 'virtio-scsi', iothread: true },
];

/** Where the guest writes during a run. Neither is the guest frozen or paused there. */
const BEFORE_THE_MOMENT = ['staging', 'bitmaps', 'moment'];
const AFTER_THE_MOMENT = ['jobs', 'copying', 'copied', 'publish', 'published'];

/** One more file on every disk. Not synced: it is the freeze that brings it to the disk. */
async function writeProof(guest: LinuxGuest, name: string): Promise<void> {
  const files = DISKS.map((disk) => `/mnt/${disk.name}/proof.${name}`);
  await guest.sh(`head -c 300000 /dev/urandom | tee ${files.join(' ')} >/dev/null`);
}

/** All of these files with their checksums. */
function proofs(guest: LinuxGuest): Promise<string> {
  return guest.sh('sha256sum /mnt/*/proof.*');
}

async function loadRounds(guest: LinuxGuest): Promise<number[]> {
  return (await guest.sh('cat /mnt/*/counter')).trim().split('\n').map(Number);
}

interface Taken {
  readonly point: Manifest;
  /** The proofs that were there at its moment. */
  readonly truth: string;
}

async function backUp(t: Test, site: TestSite, guest: LinuxGuest, nth: number): Promise<Taken> {
  let truth = '';
  const written: string[] = [];
  const { point, warnings } = await site.backUp(guest.vm, {
    agent: guest.agentSocket,
    steps: async (step) => {
      if (![...BEFORE_THE_MOMENT, ...AFTER_THE_MOMENT].includes(step)) return;
      await writeProof(guest, `${nth}-${step}`);
      written.push(step);
      if (step === 'moment') truth = await proofs(guest);
    },
  });
  t.strictSame(written, [...BEFORE_THE_MOMENT, ...AFTER_THE_MOMENT], 'the guest wrote at every step');
  t.strictSame(warnings, []);
  t.equal(point.consistency, 'filesystem');
  const { freezeMs, pauseMs } = point.timings;
  t.ok(freezeMs !== null && freezeMs < 5_000, `frozen for ${freezeMs} ms`);
  t.ok(pauseMs !== null && pauseMs < 1_000, `paused for ${pauseMs} ms`);
  t.comment(`${point.kind}: ${JSON.stringify(point.timings)}`);
  return { point, truth };
}

/** Restores a point, checks its filesystems from outside, and boots a guest that was never there before from it. */
async function expectBootable(
  t: Test,
  qemu: QemuVersion,
  site: TestSite,
  { point, truth }: Taken,
): Promise<void> {
  const dir = tempDir(t);
  const target = { dir };
  await restorePoint(site.engine.tools, site.vault, {
    vm: vmName('vm1'),
    point: point.id,
    target,
    format: 'raw',
  });
  for (const { name } of DISKS) {
    const fsck = await execa('/sbin/e2fsck', ['-fn', join(dir, `${name}.raw`)], { reject: false, all: true });
    t.equal(fsck.exitCode, 0, `fsck of ${name} of the ${point.kind} is clean`, { fsck: fsck.all });
  }
  const disks = DISKS.map((disk) => ({ ...disk, format: 'raw' as const }));
  const guest = await testGuest(t, { qemu, dir, disks });
  t.equal(
    await proofs(guest),
    truth,
    `the guest restored from the ${point.kind} has what was there, no more`,
  );
  await guest.sh('for disk in /mnt/*; do echo works >$disk/new; done; sync');
}

/** Boots a guest from a point that was not copied yet, fills its disks while it writes, and then takes the vault away. */
async function expectInstant(
  t: Test,
  qemu: QemuVersion,
  { engine, vault }: TestSite,
  { point, truth }: Taken,
): Promise<void> {
  const dir = tempDir(t);
  const vm = vmName('vm1');
  const began = performance.now();
  await restoreInstantly(engine, vault, { vm, point: point.id, target: { dir } });
  t.comment(`instantly: ${Math.round(performance.now() - began)} ms`);
  const guest = await testGuest(t, { qemu, dir, disks: DISKS });
  t.equal(await proofs(guest), truth, 'the guest has what was there, at once');
  for (const { name } of DISKS) await guest.startLoad(name);
  const filled = await fillVm(engine, vault, { vm, qmp: guest.vm.qmpSocket });
  t.match(filled, { filled: [{ disk: 'data' }, { disk: 'more' }], left: [] });
  await writeProof(guest, 'new');
  const now = await guest.sh('sync; sha256sum /mnt/*/proof.*');
  await guest.kill();
  await rename(vault.path, `${vault.path}.away`);
  await guest.restart();
  t.equal(await proofs(guest), now, 'its QEMU killed, it has all that it was sure of, without the vault');
  await rename(`${vault.path}.away`, vault.path);
}

// On 7.2 the demonstration shows it, and test/e2e/demo.test.ts runs that.
for (const qemu of qemuVersions(['11.1'])) {
  t.test(`QEMU ${qemu}: a guest under load is restored to both its moments and boots`, async (t) => {
    const guest = await testGuest(t, { qemu, disks: DISKS });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    for (const { name } of DISKS) await guest.startLoad(name);
    await writeProof(guest, 'first');

    const full = await backUp(t, site, guest, 1);
    t.equal(full.point.how, 'first');
    const between = await loadRounds(guest);
    await writeProof(guest, 'between');
    const incremental = await backUp(t, site, guest, 2);
    t.equal(incremental.point.how, 'tracked');

    await expectClean(t, site, guest.vm, { bitmaps: 1 });
    const after = await loadRounds(guest);
    t.ok(
      after.every((rounds, i) => rounds > (between[i] ?? Infinity)),
      'the load went on throughout',
    );
    t.notMatch(await readFile(join(guest.vm.dir, 'kernel.log'), 'utf8'), /error/i, 'the guest saw no error');
    await guest.kill();

    const args = [...linuxArgs(DISKS.length), '-serial', 'null'];
    const boot = { bus: 'virtio' as const, memoryBytes: 160 * MiB, args, timeoutMs: 60_000 };
    const request = { vm: vmName('vm1'), point: 'latest', level: 'quick' as const, boot };
    const { booted } = await verify(site.engine, site.vault, request);
    t.match(booted, [{ point: incremental.point.id, answer: 'agent' }], 'verify boots the incremental');
    await expectBootable(t, qemu, site, full);
    await expectBootable(t, qemu, site, incremental);
    await expectInstant(t, qemu, site, incremental);
  });
}
