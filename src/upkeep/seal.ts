import type { VmName } from '../base/ids.ts';
import { selectPoint } from '../restore/restore-plan.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { Vault } from '../vault/vault.ts';

export interface SealRequest {
  readonly vm: VmName;
  /** An id, a unique beginning of one, or `latest`. */
  readonly point: string;
  readonly waitMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Nothing more is put on top of a sealed point: the next backup begins a chain. @throws point-unknown, vault-locked, … */
export async function sealPoint(
  vault: Vault,
  { vm, point: selector, waitMs = 0, signal }: SealRequest,
): Promise<Manifest> {
  const folder = vault.vm(vm);
  selectPoint(await folder.points(), selector);
  await using lease = await folder.acquireLease({ what: `sealing ${selector}`, waitMs, signal });
  const sealed: Manifest = { ...selectPoint(await folder.points(), selector), sealed: true };
  await folder.replaceManifest(sealed, lease);
  return sealed;
}
