/** An engine whose every folder is a test's own, and what tests of backups need around it. */
import { mkdirSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Test } from 'tap';
import { backUp } from '../../src/backup/backup.ts';
import type { BackupRequest, BackupResult, Engine } from '../../src/backup/engine.ts';
import { vmName } from '../../src/base/ids.ts';
import { type Log, silent } from '../../src/base/log.ts';
import { noSteps, type ReachStep } from '../../src/base/steps.ts';
import { qemuTools } from '../../src/image/tools.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import { initVault, type Vault } from '../../src/vault/vault.ts';
import type { FixtureVm } from '../../vm-fixtures/guestless.ts';
import { difference } from './images.ts';
import { type Teardown, tempDir } from './temp-dir.ts';

export interface TestSite {
  readonly dir: string;
  readonly engine: Engine;
  readonly vault: Vault;
  /** Backs a VM up, with the defaults of the command line but for what is given. */
  backUp(
    vm: FixtureVm,
    wishes?: Partial<BackupRequest> & { steps?: ReachStep; signal?: AbortSignal; log?: Log },
  ): Promise<BackupResult>;
}

/** @param options.vault where the vault lies; default: beside the rest */
export async function testSite(
  t: Teardown,
  options: { bin?: string; vault?: string; scratchDir?: string } = {},
): Promise<TestSite> {
  const dir = tempDir(t);
  const engine: Engine = {
    stateDir: join(dir, 'state'),
    runtimeDir: join(dir, 'run'),
    scratchDir: options.scratchDir ?? join(dir, 'scratch'),
    tools: qemuTools(options.bin),
    version: 'test',
    log: silent,
    reachStep: noSteps,
  };
  // A VM that runs as another user passes through here.
  mkdirSync(engine.stateDir);
  const vault = await initVault(options.vault ?? join(dir, 'nas'), {
    memory: new VaultMemory(engine.stateDir),
  });
  return siteAt(dir, engine, vault);
}

/** The same engine with another vault, or with the same in another place. */
export function withVault({ dir, engine }: TestSite, vault: Vault): TestSite {
  return siteAt(dir, engine, vault);
}

/** The same vault with another engine. */
export function withEngine({ dir, vault }: TestSite, engine: Engine): TestSite {
  return siteAt(dir, engine, vault);
}

function siteAt(dir: string, engine: Engine, vault: Vault): TestSite {
  return {
    dir,
    engine,
    vault,
    backUp: (vm, { steps, signal, log = silent, ...wishes } = {}) =>
      backUp(
        { ...engine, log, reachStep: steps ?? noSteps },
        vault,
        { vm: vmName('vm1'), qmp: vm.qmpSocket, quiesce: 'auto', fullEvery: 10, ...wishes },
        { signal },
      ),
  };
}

/** The pid of the writer of the run under way. */
export async function writerPid({ engine }: TestSite): Promise<number> {
  for (const name of await readdir(engine.runtimeDir)) {
    const text = await readFile(join(engine.runtimeDir, name, 'pid'), 'latin1').catch(() => null);
    if (text !== null) return Number(text.split(' ')[0]);
  }
  throw new Error('no writer is running');
}

/** Nothing of ours is left in the VM but `bitmaps` per disk, and nothing in the engine's folders. */
export async function expectClean(
  t: Test,
  site: TestSite,
  vm: FixtureVm,
  { bitmaps, disks = vm.disks.length }: { bitmaps: number; disks?: number },
): Promise<void> {
  const left = await vm.leftovers();
  t.strictSame(
    [left.nodes, left.jobs, left.exports],
    [[], [], []],
    'no node, job or export of ours in the VM',
  );
  const perDisk = new Map<string, number>();
  for (const { node } of left.bitmaps) perDisk.set(node, (perDisk.get(node) ?? 0) + 1);
  const expected = bitmaps === 0 ? [] : Array<number>(disks).fill(bitmaps);
  t.strictSame([...perDisk.values()], expected, `${bitmaps} bitmap(s) per disk`);
  const folders = [site.engine.runtimeDir, site.engine.scratchDir, join(site.engine.stateDir, 'runs')];
  const names = await Promise.all(folders.map((folder) => readdir(folder).catch(() => [])));
  t.strictSame(names.flat(), [], 'no folder, socket or journal of a run');
  const staging = await readdir(join(site.vault.path, 'vm1')).catch(() => []);
  t.strictSame(
    staging.filter((name) => name.startsWith('.staging') || name === 'lease.json'),
    [],
    'no staging, no lease',
  );
}

/** Every disk of a point reads as the truth that was kept of it in `truth-<label>-<disk>`. */
export async function expectTruth(
  t: Test,
  site: TestSite,
  vm: FixtureVm,
  point: Manifest,
  label: string = point.id,
): Promise<void> {
  for (const disk of point.disks) {
    // A nameless drive is called by its number; the fixtures have one at the most.
    const { name } = vm.disks.find(({ name }) => name === disk.name) ?? vm.disk(namelessOf(vm));
    const file = join(site.vault.path, 'vm1', point.id, disk.file);
    const found = await difference(file, join(site.dir, `truth-${label}-${name}`));
    t.equal(found, null, `${disk.name} of ${point.id} is as it was`);
  }
}

function namelessOf({ disks }: FixtureVm): string {
  return disks.find(({ attach }) => attach === 'nameless')?.name ?? '';
}

/** Backs up a VM in which nothing else writes meanwhile, and keeps the truth of that point. */
export async function backUpWithTruth(
  site: TestSite,
  vm: FixtureVm,
  wishes: Parameters<TestSite['backUp']>[1] = {},
): Promise<Manifest> {
  const { point } = await site.backUp(vm, wishes);
  for (const { name } of vm.disks) await vm.truth(name, join(site.dir, `truth-${point.id}-${name}`));
  return point;
}
