/** An engine whose every folder is a test's own, and what tests of backups need around it. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { backUp } from '../../src/backup/backup.ts';
import type { BackupRequest, BackupResult, Engine } from '../../src/backup/engine.ts';
import { vmName } from '../../src/base/ids.ts';
import { silent } from '../../src/base/log.ts';
import { noSteps, type ReachStep } from '../../src/base/steps.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import { initVault, type Vault } from '../../src/vault/vault.ts';
import type { FixtureVm } from '../../vm-fixtures/guestless.ts';
import { type Teardown, tempDir } from './temp-dir.ts';

export interface TestSite {
  readonly dir: string;
  readonly engine: Engine;
  readonly vault: Vault;
  /** Backs a VM up, with the defaults of the command line but for what is given. */
  backUp(
    vm: FixtureVm,
    wishes?: Partial<BackupRequest> & { steps?: ReachStep; signal?: AbortSignal },
  ): Promise<BackupResult>;
}

/** @param options.vault where the vault lies; default: beside the rest */
export async function testSite(
  t: Teardown,
  options: { bin?: string; vault?: string } = {},
): Promise<TestSite> {
  const dir = tempDir(t);
  const engine: Engine = {
    stateDir: join(dir, 'state'),
    runtimeDir: join(dir, 'run'),
    scratchDir: join(dir, 'scratch'),
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
  return {
    dir,
    engine,
    vault,
    backUp: (vm, { steps, signal, ...wishes } = {}) =>
      backUp(
        { ...engine, reachStep: steps ?? noSteps },
        vault,
        { vm: vmName('vm1'), qmp: vm.qmpSocket, quiesce: 'auto', fullEvery: 10, ...wishes },
        { signal },
      ),
  };
}
