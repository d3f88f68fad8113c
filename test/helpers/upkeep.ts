/** An engine for upkeep, and what tests of it ask of every point that is left. */
import { cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Test } from 'tap';
import { silent } from '../../src/base/log.ts';
import { noSteps, type ReachStep } from '../../src/base/steps.ts';
import { type QemuTools, qemuTools } from '../../src/image/tools.ts';
import { changeFinisher } from '../../src/upkeep/delete.ts';
import type { VerifyEngine } from '../../src/upkeep/verify.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import { openVault, type Vault } from '../../src/vault/vault.ts';
import type { VmFolder } from '../../src/vault/vm-folder.ts';
import type { HandMadeVault } from './hand-made-vault.ts';
import { difference } from './images.ts';
import { tempDir } from './temp-dir.ts';

export function upkeepEngine(
  t: Test,
  { tools = qemuTools(), steps = noSteps }: { tools?: QemuTools; steps?: ReachStep } = {},
): VerifyEngine {
  return { runtimeDir: tempDir(t), scratchDir: tempDir(t), tools, log: silent, reachStep: steps };
}

/** Every disk of every point reads as it did when the point was made. */
export async function assertAllPoints(t: Test, made: HandMadeVault, vm: VmFolder): Promise<void> {
  const { points, broken } = await vm.points();
  t.strictSame(broken, [], 'every manifest can be read');
  for (const { id, disks } of points) {
    for (const { name, file } of disks) {
      const found = await difference(join(vm.path, id, file), made.truthFile(id, name));
      t.equal(found, null, `${name} of ${id}`);
    }
  }
}

export interface VaultCopy {
  /** With the vault in `vault`, and `run` and `state` beside it. */
  readonly dir: string;
  readonly vault: Vault;
}

/** Opened as a command does that changes points: it finishes what it finds. @param options.dir where it is to lie */
export async function copyVault(
  t: Test,
  made: HandMadeVault,
  { bin, dir = tempDir(t) }: { bin?: string; dir?: string } = {},
): Promise<VaultCopy> {
  mkdirSync(join(dir, 'run'));
  cpSync(made.vault.path, join(dir, 'vault'), { recursive: true });
  const finishChange = changeFinisher(upkeepEngine(t, { tools: qemuTools(bin) }));
  const memory = new VaultMemory(join(dir, 'state'));
  return { dir, vault: await openVault(join(dir, 'vault'), { memory, finishChange }) };
}
