import type { VmName } from '../base/ids.ts';
import { selectPoint } from '../restore/restore-plan.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { Vault } from '../vault/vault.ts';

export interface ProtectRequest {
  readonly vm: VmName;
  /** An id, a unique beginning of one, or `latest`. */
  readonly point: string;
  readonly protect: boolean;
  readonly waitMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** A protected point is never chosen by prune, and delete refuses it. @throws point-unknown, vault-locked, … */
export async function protectPoint(
  vault: Vault,
  { vm, point: selector, protect, waitMs = 0, signal }: ProtectRequest,
): Promise<Manifest> {
  const folder = vault.vm(vm);
  selectPoint(await folder.points(), selector);
  await using lease = await folder.acquireLease({ what: `protecting ${selector}`, waitMs, signal });
  const { protected: _, ...point } = selectPoint(await folder.points(), selector);
  const changed: Manifest = protect ? { ...point, protected: true } : point;
  await folder.replaceManifest(changed, lease);
  return changed;
}
