/**
 * What can be asked of the engine, as plain JSON in and plain JSON out: one function per operation, whoever carries the
 * question. The command line calls it in its own process, the daemon in a worker's, and both say the same.
 */
import { z } from 'zod';
import type { Engine } from '../backup/engine.ts';
import { QmpvaultError } from '../base/errors.ts';
import { diskName, pointId, vmName } from '../base/ids.ts';
import type { Vault } from '../vault/vault.ts';

/** How far an operation has come. */
export interface Progress {
  readonly phase: string;
  readonly disks: readonly {
    readonly name: string;
    readonly doneBytes: number;
    readonly totalBytes: number;
  }[];
}

/** What an operation works with, on this host. */
export interface OperationContext {
  readonly engine: Engine;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: Progress) => void) | undefined;
  /** Of one that lasts until it is cancelled: what it will answer, as soon as it is at work. */
  readonly onReady?: ((result: object) => void) | undefined;
  /** Bytes per second, where that changes while the operation is under way; in place of its parameter. */
  readonly bandwidth?: (() => number | undefined) | undefined;
}

// Parameters that several operations share. Names that come from outside are checked as they are read.
export const vaultParam = z.string().min(1).describe('the folder of the vault');
export const vmParam = z.string().transform((name) => vmName(name));
export const diskParam = z.string().transform((name) => diskName(name));
export const newPointParam = z.string().transform((id) => pointId(id));
export const selectorParam = z
  .string()
  .default('latest')
  .describe("an id, a unique beginning of one, or 'latest'");
export const socketParam = z.string().min(1);
export const imagesParam = z
  .record(z.string(), z.string())
  .transform((images) => new Map(Object.entries(images).map(([name, path]) => [diskName(name), path])));

/** @throws vault-missing, vault-away, vault-format, vault-unreadable */
export async function openVault(path: string, { engine }: OperationContext): Promise<Vault> {
  // What is not needed is not loaded: it costs every command time and memory.
  const [{ openVault }, { VaultMemory }] = await Promise.all([
    import('../vault/vault.ts'),
    import('../vault/memory.ts'),
  ]);
  return openVault(path, { memory: new VaultMemory(engine.stateDir) });
}

/** For what changes points: what a dead process left half done is finished first. @throws as openVault */
export async function openVaultToChange(path: string, { engine }: OperationContext): Promise<Vault> {
  const [{ openVault }, { VaultMemory }, { changeFinisher }] = await Promise.all([
    import('../vault/vault.ts'),
    import('../vault/memory.ts'),
    import('../upkeep/delete.ts'),
  ]);
  return openVault(path, {
    memory: new VaultMemory(engine.stateDir),
    finishChange: changeFinisher(engine),
  });
}

/** @throws usage naming the member */
export function parseParams<S extends z.ZodType>(schema: S, params: unknown): z.output<S> {
  const parsed = schema.safeParse(params);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(
    ({ path, message }) => `${path.join('.') || 'parameters'}: ${message}`,
  );
  throw new QmpvaultError('usage', problems.join('; '), { details: { problems } });
}
