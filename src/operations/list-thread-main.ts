/** A thread that lists its share of a vault's VMs. */
import { parentPort, workerData } from 'node:worker_threads';
import { errorJson } from '../base/errors.ts';
import { Vault } from '../vault/vault.ts';
import type { Share, ShareResult } from './list-threads.ts';
import { listHere } from './list-vms.ts';

const { vault, names }: Share = workerData;
const result: ShareResult = await listHere(new Vault(vault.path, vault.id), names).then(
  (listed) => ({ listed }),
  (error: unknown) => ({ error: errorJson(error) }),
);
parentPort?.postMessage(result);
