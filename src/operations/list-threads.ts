/**
 * Listing a large vault in several threads. 30,000 manifests take more than two seconds to be read and checked, nearly
 * all of it CPU time, and to check less of what anybody may have written is no way to save it.
 */
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { type Details, type ErrorCode, QmpvaultError } from '../base/errors.ts';
import type { VaultId, VmName } from '../base/ids.ts';
import type { Vault } from '../vault/vault.ts';
import type { Listed } from './list-vms.ts';

/** Beside this file, as source in a checkout and compiled in a package. */
const ENTRY = fileURLToPath(
  new URL(
    import.meta.url.endsWith('.ts') ? './list-thread-main.ts' : './list-thread-main.js',
    import.meta.url,
  ),
);
/** Also on fewer CPUs: what is not cached is waited for. More of them take longer to start than they save. */
const THREADS = 4;

export interface Share {
  readonly vault: { readonly path: string; readonly id: VaultId };
  readonly names: readonly VmName[];
}

export type ShareResult =
  | { readonly listed: readonly Listed[] }
  | { readonly error: { readonly code: ErrorCode; readonly message: string; readonly details: Details } };

/** In the order of the names. @throws vault-away, vault-unreadable */
export async function listInThreads(
  { path, id }: Pick<Vault, 'path' | 'id'>,
  names: readonly VmName[],
): Promise<Listed[]> {
  const size = Math.ceil(names.length / THREADS);
  const workers = Array.from({ length: THREADS }, (_, i) => {
    const workerData: Share = { vault: { path, id }, names: names.slice(i * size, (i + 1) * size) };
    return new Worker(ENTRY, { workerData });
  });
  try {
    return (await Promise.all(workers.map(resultOf))).flat();
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

/** @throws what reading threw there, and what ended the thread */
async function resultOf(worker: Worker): Promise<readonly Listed[]> {
  const [result]: ShareResult[] = await once(worker, 'message');
  if (result === undefined) throw new QmpvaultError('internal', 'a thread that lists points said nothing');
  if ('listed' in result) return result.listed;
  const { code, message, details } = result.error;
  throw new QmpvaultError(code, message, { details });
}
