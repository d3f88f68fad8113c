/** A VM with three disks through its life, backed up by an orchestrator that decides; each moment restored as it does. */
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { MiB } from '../../src/base/units.ts';
import { readQcow2Header } from '../../src/image/qcow2-header.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { type DiskSpec, type FixtureVm, qemuBin } from '../../vm-fixtures/guestless.ts';
import { cli } from '../helpers/cli.ts';
import { difference } from '../helpers/images.ts';
import { type Backup, boundTo, folderAt, Orchestrator } from '../helpers/orchestrator.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

/** A VM is found by its name among all of this host. */
const INSTANCE = `i-${process.pid}-3-VM`;
const DISKS: readonly DiskSpec[] = [
  { name: 'vda', sizeBytes: 32 * MiB, withBacking: true },
  { name: 'sda', sizeBytes: 16 * MiB, attach: 'virtio-scsi' },
  { name: 'vdc', sizeBytes: 24 * MiB },
];

class Life {
  readonly nas: string;
  readonly vm: FixtureVm;
  readonly orchestrator: Orchestrator;
  #writes = 0;

  private constructor(t: Test, vm: FixtureVm, bin: string) {
    this.nas = join(tempDir(t), 'nas');
    mkdirSync(this.nas);
    this.vm = vm;
    this.orchestrator = new Orchestrator(t, { nas: boundTo(this.nas), bin });
  }

  static async begin(t: Test, qemu: Parameters<typeof qemuBin>[0], disks = DISKS): Promise<Life> {
    const vm = await testVm(t, { qemu, disks, name: INSTANCE });
    return new Life(t, vm, qemuBin(qemu));
  }

  async write(): Promise<void> {
    this.#writes += 1;
    for (const { name } of this.vm.disks) {
      await this.vm.write(name, 16 + this.#writes, (this.#writes % 12) * MiB, MiB);
      await this.vm.write(name, this.#writes, 13 * MiB, MiB);
    }
  }

  async backUp(how: { stopped?: boolean; full?: boolean } = {}): Promise<Backup> {
    const backup = await this.orchestrator.backUp(INSTANCE, this.vm, how);
    for (const { name } of this.vm.disks) await this.vm.truth(name, this.truth(backup, name));
    return backup;
  }

  truth({ path }: Backup, disk: string): string {
    return join(this.vm.dir, `truth-${path.replace('/', '-')}-${disk}`);
  }

  async manifest({ path }: Backup): Promise<Manifest> {
    return JSON.parse(await readFile(join(this.nas, path, 'manifest.json'), 'utf8')) as Manifest;
  }

  /** Every disk of these, restored as the orchestrator restores, holds what it held then. */
  async expectRestored(t: Test, backups: readonly Backup[]): Promise<void> {
    for (const backup of backups) {
      for (const [i, { name }] of this.vm.disks.entries()) {
        const target = join(this.orchestrator.dir, 'restored');
        await this.orchestrator.restore(this.nas, backup, backup.volumes[i] ?? '', target);
        t.equal(await difference(target, this.truth(backup, name)), null, `${name} of ${backup.path}`);
        await rm(target);
      }
    }
  }
}

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(
    `QEMU ${qemu}: three disks through stops, starts and a killed QEMU: each its own chain`,
    async (t) => {
      const life = await Life.begin(t, qemu);
      const { orchestrator, vm, nas } = life;
      // What must not make a difference differs: on one of them the daemon does it.
      if (qemu !== '7.2') await orchestrator.startDaemon(t);
      orchestrator.fullEvery = 3;
      for (let nth = 0; nth < 5; nth += 1) {
        // The NAS is mounted somewhere else each time; and where it is not to be mounted it is the same vault too.
        orchestrator.nas = nth === 3 ? folderAt(nas) : boundTo(nas);
        await life.write();
        await life.backUp();
      }
      const { backups } = orchestrator;
      t.strictSame(
        backups.map(({ type }) => type),
        ['FULL', 'INCREMENTAL', 'INCREMENTAL', 'FULL', 'INCREMENTAL'],
      );
      const [first, second] = backups as [Backup, Backup];
      t.strictSame(
        readdirSync(join(nas, second.path)).toSorted(),
        ['datadisk.sda.qcow2.qcow2', 'datadisk.vdc.qcow2.qcow2', 'manifest.json', 'root.vda.qcow2.qcow2'],
        'its files have the names that the orchestrator expects',
      );
      for (const [i, file] of second.volumes.entries()) {
        const { backingLink, backingFormat } = await readQcow2Header(join(nas, second.path, file));
        t.equal(
          backingLink,
          `../${first.path.split('/')[1]}/${first.volumes[i]}`,
          'each disk stands on its own parent',
        );
        t.equal(backingFormat, 'qcow2');
      }
      const made = await life.manifest(second);
      t.match(made, { how: 'tracked', bitmapAlias: second.bitmap, vm: { name: INSTANCE } });
      t.equal(
        second.sizeBytes,
        made.disks.reduce((sum, disk) => sum + disk.storedBytes, 0),
        'the size is what was stored',
      );
      t.ok(second.sizeBytes < 8 * MiB, 'an increment is small');

      orchestrator.fullEvery = 10;
      await vm.restart();
      await life.write();
      t.match(await life.manifest(await life.backUp()), { how: 'tracked' }, 'after a restart of the VM');
      await life.write();
      await vm.kill();
      await vm.restart();
      t.match(await life.manifest(await life.backUp()), { how: 'resynced' }, 'after its QEMU was killed');
      await life.write();
      await vm.quit();
      const offline = await life.backUp({ stopped: true });
      t.match(
        await life.manifest(offline),
        { how: 'tracked', bitmapAlias: offline.bitmap },
        'while it is stopped',
      );
      t.equal(offline.type, 'INCREMENTAL');
      const full = await life.backUp({ stopped: true, full: true });
      await vm.restart();
      await life.write();
      const after = await life.backUp();
      t.match(
        await life.manifest(after),
        { how: 'tracked', parent: full.path.split('/')[1] },
        'onto a full of the stopped VM',
      );
      await life.expectRestored(t, backups);

      const [, inc1, inc2] = backups as [Backup, Backup, Backup];
      t.match(await orchestrator.delete(inc1.path), { exitCode: 0, stdout: '' });
      t.notOk(readdirSync(join(nas, INSTANCE)).includes(inc1.path.split('/')[1] ?? ''));
      await life.expectRestored(t, [inc2]);
      const [below, , above] = backups.slice(4) as [Backup, Backup, Backup];
      for (const [i, file] of above.volumes.entries()) {
        const rebase = ['-o', 'rebase', ...orchestrator.where(), '--rebase-target', `${above.path}/${file}`];
        rebase.push('--rebase-new-backing', `${below.path}/${below.volumes[i]}`);
        t.match(await orchestrator.run(rebase), { exitCode: 0, stdout: '' }, 'the older way to free a point');
      }
      t.equal((await life.manifest(above)).parent, below.path.split('/')[1]);
      const two = backups.slice(4, 6);
      const outcomes = await Promise.all(two.map(({ path }) => orchestrator.delete(path)));
      t.strictSame(
        outcomes.map(({ exitCode }) => exitCode),
        [0, 0],
        'two deletes at once: one after the other',
      );
      t.match(await orchestrator.delete(inc1.path), { exitCode: 0, stdout: '' }, 'what is gone is deleted');
      const left = backups.filter((backup) => backup !== inc1 && !two.includes(backup));
      await life.expectRestored(t, left);

      const site = {
        engine: {
          stateDir: join(orchestrator.dir, 'state'),
          runtimeDir: join(orchestrator.dir, 'run'),
          scratchDir: join(orchestrator.dir, 'scratch'),
        },
      };
      const verified = await cli(site as never, ['verify', INSTANCE, '--vault', nas, '--deep']);
      t.match(
        JSON.parse(verified.stdout),
        { checked: left.length, damaged: [] },
        'they are points like any others',
      );
      t.strictSame(readdirSync(join(orchestrator.dir, 'run')), [], 'no mount point is left');
      const known = readdirSync(join(orchestrator.dir, 'state', 'vaults'));
      t.equal(
        known.length,
        2,
        'the vault is remembered by its address and by its path, not by each mount point',
      );
      t.notMatch(readFileSync('/proc/mounts', 'utf8'), orchestrator.dir, 'and nothing is mounted');
    },
  );
}
