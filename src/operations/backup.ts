/** Making one restore point of a VM. */
import { z } from 'zod';
import { backUp } from '../backup/backup.ts';
import { codeOf, QmpvaultError } from '../base/errors.ts';
import type { VmName } from '../base/ids.ts';
import { Replacement } from '../restore/replacement.ts';
import { diskParam, newPointParam, quiesceParam, vmParam } from '../rpc/params.ts';
import { ownAccounts } from '../rpc/share.ts';
import type { Vault } from '../vault/vault.ts';
import { findRunning } from '../vm/find-running.ts';
import { once } from './once.ts';
import { imagesParam, type OperationContext, openOrMake, socketParam, vaultParam } from './operation.ts';
import { pointJson } from './point-json.ts';

export const params = z.strictObject({
  vault: vaultParam,
  init: z.boolean().default(false).describe('make the vault when it is missing'),
  newVault: z.boolean().default(false).describe('with init: also where another vault is known'),
  vm: vmParam,
  qmp: socketParam.optional(),
  agent: socketParam.optional(),
  ...ownAccounts,
  images: imagesParam.optional(),
  beside: ownAccounts.beside.transform((texts) => texts && new Map(Object.entries(texts))),
  discover: z.array(z.string()).optional().describe('with instance: patterns of sockets to look at too'),
  quiesce: quiesceParam.default('auto'),
  full: z.boolean().optional(),
  fullEvery: z.int().default(10),
  exclude: z.array(diskParam).optional(),
  bandwidth: z.number().positive().optional().describe('bytes per second, over all disks'),
  point: newPointParam.optional(),
  resume: z
    .boolean()
    .optional()
    .describe(
      'it was begun before, by an engine that died: the point of that run is the result, if there is one',
    ),
  noProgressMs: z.int().positive().optional(),
  withoutSnapshot: z.boolean().optional(),
});

type Wishes = z.output<typeof params>;

/** @throws as backUp and openVault; vm-unknown for an instance of which nothing is known */
export async function run({ vault: path, init, newVault, ...wishes }: Wishes, context: OperationContext) {
  if (wishes.instance === undefined) refuseUnfreezable(wishes);
  const vault = await openOrMake(path, { init, newVault }, context);
  const { againMs, instance, discover, ...wish } = wishes;
  const make = async () => {
    const request = instance === undefined ? wish : await found(wish, { instance, discover }, vault, context);
    const { engine, signal, onProgress, bandwidth } = context;
    const finished = await finishRestore(vault, request.vm, context);
    const { point, warnings } = await backUp(engine, vault, request, { signal, onProgress, bandwidth });
    return { point, warnings: [...finished, ...warnings] };
  };
  const { point, warnings } =
    againMs === undefined || wish.point === undefined
      ? await make()
      : await once(vault.vm(wish.vm), wish.point, { timeoutMs: againMs, make, context });
  return { point: pointJson(point), warnings };
}

/** @throws usage */
function refuseUnfreezable({ quiesce, agent }: Pick<Wishes, 'quiesce' | 'agent'>): void {
  if (quiesce !== 'required' || agent !== undefined) return;
  throw new QmpvaultError('usage', 'freezing is required, and no socket of the guest agent is named');
}

type Request = Omit<Wishes, 'vault' | 'init' | 'newVault' | 'againMs' | 'instance' | 'discover'>;

/** With the sockets of its QEMU, where they are not named. @throws as findRunning; vm-unknown */
async function found(
  request: Request,
  { instance, discover }: { instance: string; discover: readonly string[] | undefined },
  vault: Vault,
  { engine: { log }, signal }: OperationContext,
): Promise<Request> {
  const sockets = request.qmp === undefined ? await findRunning(instance, { discover, log, signal }) : {};
  const wish = { ...request, ...sockets };
  if (
    wish.qmp === undefined &&
    wish.images === undefined &&
    (await vault.vm(wish.vm).readRecord()) === null
  ) {
    throw new QmpvaultError(
      'vm-unknown',
      `no QEMU called ${instance} runs on this host, none of its images are named, and the vault remembers none`,
      { details: { vm: instance } },
    );
  }
  refuseUnfreezable(wish);
  if (wish.quiesce !== 'off' && wish.qmp !== undefined && wish.agent === undefined) {
    log.warn({ vm: instance }, 'no guest agent that qmpvault may use: nothing will be frozen');
  }
  return wish;
}

/** What a restore in place that was killed left is no state to back up, unless the VM runs on it already. @returns warnings */
async function finishRestore(vault: Vault, vm: VmName, { engine }: OperationContext): Promise<string[]> {
  try {
    return await Replacement.finish(engine, vault, vm);
  } catch (error) {
    if (codeOf(error) !== 'vm-busy') throw error;
    return [
      `a restore of ${vm} in place was interrupted, and the VM started since: its disks may be of two moments. Stop it, and repeat the restore`,
    ];
  }
}
