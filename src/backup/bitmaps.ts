/** The bitmaps in a VM: whose each is, what it is good for, and removing those that nobody needs. */
import { isBitmapOf, parseBitmapName, type VmName } from '../base/ids.ts';
import { formatBytes } from '../base/units.ts';
import { newest } from '../vault/chain.ts';
import type { Manifest } from '../vault/manifest.ts';
import type { Vault } from '../vault/vault.ts';
import { removeBitmaps } from '../vm/bitmaps.ts';
import type { Bitmap } from '../vm/block-graph.ts';
import { Vm } from '../vm/vm.ts';
import type { Engine } from './engine.ts';
import { reconcile } from './release.ts';
import { readRunRecords } from './run-journal.ts';
import { refuseStranger } from './survey.ts';

/**
 * - `newest`: tells the changes since the newest point. `older`: since another; the next backup removes it.
 * - `orphan`: made for this vault, but no point and no run on this host knows it.
 * - `run`: of a run at work or not cleaned up yet. `other-vault`, `foreign`: not ours to touch.
 */
export type BitmapOwner = 'newest' | 'older' | 'orphan' | 'run' | 'other-vault' | 'foreign';

export interface ListedBitmap {
  readonly node: string;
  readonly image: string;
  readonly name: string;
  readonly owner: BitmapOwner;
  readonly point: string | null;
  readonly countBytes: number;
  readonly words: string;
}

/** `orphans`: what is left of dead runs and deleted points. `ours`: all of any vault, the way to a `loadvm`. */
export type BitmapRemoval = 'orphans' | 'ours';

export interface BitmapsRequest {
  readonly vm: VmName;
  readonly qmp: string;
  readonly remove?: BitmapRemoval | undefined;
}

/**
 * Lists the bitmaps of a VM, and removes those that are asked for. After `ours` the next backup reads all disks.
 * @returns `bitmaps` are those that are there afterwards
 * @throws vm-unreachable, vm-busy, vault-locked while a run is at work
 */
export async function vmBitmaps(
  engine: Engine,
  vault: Vault,
  { vm: name, qmp, remove }: BitmapsRequest,
  { signal }: { signal?: AbortSignal | undefined } = {},
): Promise<{ bitmaps: ListedBitmap[]; removed: ListedBitmap[]; warnings: string[] }> {
  await using vm = await Vm.connect(qmp, { signal });
  const folder = vault.vm(name);
  if (remove === undefined)
    return {
      bitmaps: await list(engine, vault, vm, (await folder.points()).points),
      removed: [],
      warnings: [],
    };

  await using lease = await folder.acquireLease({
    what: `removing bitmaps of ${name}`,
    ...(signal && { signal }),
  });
  const reconciled = await reconcile({ engine, vm, vault, folder, lease });
  const warnings = [...reconciled.warnings];
  const { points, broken } = await folder.points();
  refuseStranger(vm, folder, points);
  const before = await list(engine, vault, vm, points);
  const wanted = before.filter(({ owner }) => (remove === 'ours' ? owner !== 'foreign' : owner === 'orphan'));
  if (broken.length > 0 && remove === 'orphans') {
    // A bitmap may belong to a point whose manifest cannot be read.
    warnings.push(`nothing was removed: ${broken.map(({ error }) => error.message).join('; ')}`);
    return { bitmaps: before, removed: [], warnings };
  }
  await removeBitmaps(vm.client, (name) => wanted.some((bitmap) => bitmap.name === name));
  const bitmaps = await list(engine, vault, vm, points);
  const isThere = ({ node, name }: ListedBitmap) =>
    bitmaps.some((bitmap) => bitmap.node === node && bitmap.name === name);
  return { bitmaps, removed: wanted.filter((bitmap) => !isThere(bitmap)), warnings };
}

async function list(
  engine: Engine,
  vault: Vault,
  vm: Vm,
  points: readonly Manifest[],
): Promise<ListedBitmap[]> {
  const records = await readRunRecords(engine.stateDir);
  const ofRuns = new Set(records.flatMap(({ record }) => record.bitmaps));
  const { nodes } = await vm.graph();
  return [...nodes.values()].flatMap(({ name: node, filename: image, bitmaps }) =>
    bitmaps.map((bitmap) => {
      const point =
        points.find(({ disks }) => disks.some((disk) => disk.bitmap?.name === bitmap.name)) ?? null;
      const owner = ownerOf(bitmap.name, vault, point, points, ofRuns);
      const { name, countBytes } = bitmap;
      return {
        node,
        image,
        name,
        owner,
        point: point?.id ?? null,
        countBytes,
        words: inWords(bitmap, owner, point),
      };
    }),
  );
}

function ownerOf(
  name: string,
  vault: Vault,
  point: Manifest | null,
  points: readonly Manifest[],
  ofRuns: ReadonlySet<string>,
): BitmapOwner {
  if (parseBitmapName(name) === null) return 'foreign';
  if (!isBitmapOf(vault.id, name)) return 'other-vault';
  if (point !== null) return point.id === newest(points)?.id ? 'newest' : 'older';
  return ofRuns.has(name) ? 'run' : 'orphan';
}

function inWords(bitmap: Bitmap, owner: BitmapOwner, point: Manifest | null): string {
  const about = {
    newest: `changes since ${point?.id}`,
    older: `changes since the older ${point?.id}`,
    orphan: 'of this vault, but of no point and no run: --remove-orphans removes it',
    run: 'of a run at work, or to be cleaned up by the next',
    'other-vault': 'of another vault',
    foreign: 'not of qmpvault',
  }[owner];
  const flags = [
    ...(bitmap.inconsistent ? ['inconsistent: QEMU died before it could store it'] : []),
    ...(bitmap.busy ? ['in use by a job'] : []),
    ...(bitmap.recording || bitmap.inconsistent ? [] : ['disabled']),
    ...(bitmap.persistent ? [] : ['lives as long as the QEMU process']),
  ];
  return [`${formatBytes(bitmap.countBytes)}, ${about}`, ...flags].join('; ');
}
