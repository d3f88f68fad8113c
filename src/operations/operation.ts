/**
 * What can be asked of the engine, as plain JSON in and plain JSON out: one function per operation, whoever carries the
 * question. The command line calls it in its own process, the daemon in a worker's, and both say the same.
 */
import { z } from 'zod';
import type { Engine } from '../backup/engine.ts';
import type { Clock } from '../base/clock.ts';
import { codeOf } from '../base/errors.ts';
import type { DiskName } from '../base/ids.ts';
import { diskPathsParam, selectorParam } from '../rpc/params.ts';
import type { Work } from '../upkeep/work.ts';
import type { Vault, VaultOptions } from '../vault/vault.ts';

/** How far an operation has come. */
export interface Progress {
  readonly phase: string;
  readonly disks: readonly {
    readonly name: string;
    readonly doneBytes: number;
    readonly totalBytes: number;
  }[];
}

/** How upkeep tells how far it is, in the form of all operations. */
export function workProgress({ onProgress }: OperationContext): ((work: Work) => void) | undefined {
  return (
    onProgress &&
    (({ phase, name, doneBytes, totalBytes }) =>
      onProgress({ phase, disks: [{ name, doneBytes: Math.round(doneBytes), totalBytes }] }))
  );
}

/** What an operation works with, on this host. */
export interface OperationContext {
  readonly engine: Engine;
  /** Which vault is known where; default: by its folder. */
  readonly memory?: VaultOptions['memory'] | undefined;
  /** Default: the system's. */
  readonly clock?: Clock | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Of one that lasts until it is cancelled: what it will answer, as soon as it is at work. */
  readonly onReady?: ((result: object) => void) | undefined;
  /** Bytes per second, where that changes while the operation is under way; in place of its parameter. */
  readonly bandwidth?: (() => number | undefined) | undefined;
}

// Parameters of operations alone; those of the daemon's methods too are in src/rpc/params.ts.
export const vaultParam = z.string().min(1).describe('the folder of the vault');
export const selectorOrLatest = selectorParam.default('latest');
export const socketParam = z.string().min(1);
export const imagesParam = diskPathsParam.transform(
  (images) => new Map(Object.entries(images) as [DiskName, string][]),
);

/** @throws vault-missing, vault-away, vault-format, vault-unreadable */
export async function openVault(path: string, context: OperationContext): Promise<Vault> {
  // What is not needed is not loaded: it costs every command time and memory.
  const { openVault } = await import('../vault/vault.ts');
  return openVault(path, { memory: await memoryOf(context) });
}

/** For what changes points: what a dead process left half done is finished first. @throws as openVault */
export async function openVaultToChange(path: string, context: OperationContext): Promise<Vault> {
  const [{ openVault }, { changeFinisher }] = await Promise.all([
    import('../vault/vault.ts'),
    import('../upkeep/delete.ts'),
  ]);
  return openVault(path, {
    memory: await memoryOf(context),
    finishChange: changeFinisher(context.engine),
  });
}

/** As openVaultToChange; the one that is missing is made, where that is wanted. @throws also vault-known, vault-full, sync-failed */
export async function openOrMake(
  path: string,
  { init, newVault = false }: { init: boolean; newVault?: boolean },
  context: OperationContext,
): Promise<Vault> {
  try {
    return await openVaultToChange(path, context);
  } catch (error) {
    const mayMake = codeOf(error) === 'vault-missing' || (newVault && codeOf(error) === 'vault-away');
    if (!init || !mayMake) throw error;
    const { initVault } = await import('../vault/vault.ts');
    await initVault(path, { memory: await memoryOf(context), newVault });
    return openVaultToChange(path, context);
  }
}

async function memoryOf({ memory, engine }: OperationContext): Promise<VaultOptions['memory']> {
  if (memory !== undefined) return memory;
  const { VaultMemory } = await import('../vault/memory.ts');
  return new VaultMemory(engine.stateDir);
}
