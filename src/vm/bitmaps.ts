/**
 * Dirty bitmaps, always addressed by (node, name), and how one of ours proves that it is ours.
 *
 * Identity: a bitmap that was removed and added again under our name is empty, yet looks like ours. So a pattern
 * of random clusters is merged into each new bitmap in the transaction that makes it; the positions stand in
 * the manifest. To check, merge the bitmap alone into a throwaway one, and with the pattern into another: if that one counts
 * more, the pattern was not in the bitmap, and it is not the one that we made.
 *
 * In a VM the pattern is drawn on a null-co node (no image, no I/O, same size) by write requests of QEMU's own
 * `qemu-io` monitor command, the only way in QMP to set chosen bits (7.2 and 11.1: 16 requests take 10 ms, quiet 3 ms).
 * A storage daemon has no such command: there the pattern comes in an image.
 */
import { randomInt } from 'node:crypto';
import type { QmpClient } from '../../qmp/index.ts';
import { QmpvaultError } from '../base/errors.ts';
import type { BitmapName } from '../base/ids.ts';
import { type NodeName, type Nodes, readNodes } from './block-graph.ts';

/** One granularity for all: the cluster size of the increments (capture.md, Traps). */
export const GRANULARITY_BYTES = 64 * 1024;
const PATTERN_CLUSTERS = 16;

export interface BitmapRef {
  readonly node: NodeName;
  readonly name: string;
}

/** One disk's new bitmap; `pattern` are byte offsets of clusters. */
export interface NewBitmap extends BitmapRef {
  readonly name: BitmapName;
  readonly persistent: boolean;
  readonly sizeBytes: number;
  readonly pattern: readonly number[];
}

/**
 * Positions for the identity of a bitmap: clusters, ascending and distinct; fewer on a tiny disk. The last one is always among them:
 * - When a disk is made smaller, its bitmap loses what lies behind the new end, and no longer proves its identity. Were the
 *   disk then made as large as before, nothing else would tell.
 * - A qcow2 that is made smaller keeps its last cluster whole; when it grows, the guest finds there what had been cut off.
 *   QEMU marks nothing as changed (7.2 and 11.1), but the cluster at the old end is copied with the pattern.
 */
export function newPattern(sizeBytes: number): number[] {
  const clusters = Math.max(1, Math.ceil(sizeBytes / GRANULARITY_BYTES));
  const wanted = Math.min(PATTERN_CLUSTERS, clusters);
  const chosen = new Set([clusters - 1]);
  while (chosen.size < wanted) chosen.add(randomInt(clusters));
  return [...chosen].sort((a, b) => a - b).map((cluster) => cluster * GRANULARITY_BYTES);
}

/** What a transaction does to give all disks their new bitmap, with its pattern, at once. */
export function addBitmapActions(bitmaps: readonly { bitmap: NewBitmap; patternNode: NodeName }[]): object[] {
  return bitmaps.flatMap(({ bitmap, patternNode }) => [
    {
      type: 'block-dirty-bitmap-add',
      data: {
        node: bitmap.node,
        name: bitmap.name,
        granularity: GRANULARITY_BYTES,
        persistent: bitmap.persistent,
      },
    },
    {
      type: 'block-dirty-bitmap-merge',
      data: { node: bitmap.node, target: bitmap.name, bitmaps: [{ node: patternNode, name: 'pattern' }] },
    },
  ]);
}

export interface Pattern {
  /** Name of the node that carries it in its bitmap `pattern`; made here. */
  readonly node: NodeName;
  readonly sizeBytes: number;
  readonly clusters: readonly number[];
}

/** Makes the node of a pattern, and its bitmap `pattern`. */
export type DrawPattern = (client: QmpClient, pattern: Pattern) => Promise<void>;

async function drawByMonitor(client: QmpClient, { node, sizeBytes, clusters }: Pattern): Promise<void> {
  const granularity = GRANULARITY_BYTES;
  // QEMU does them in this order, whether or not each waits for the reply to the one before.
  await Promise.all([
    client.execute('blockdev-add', { driver: 'null-co', 'node-name': node, size: sizeBytes }),
    client.execute('block-dirty-bitmap-add', { node, name: 'pattern', granularity }),
    // A cluster's first sector is enough to set its bit.
    ...clusters.map((offset) =>
      client.execute('human-monitor-command', {
        'command-line': `qemu-io ${node} "write -q -z ${offset} 512"`,
      }),
    ),
  ]);
}

/** Makes a node for each pattern. @throws vm-unfit where the bits are not set, as by a monitor without qemu-io */
export async function drawPatterns(
  client: QmpClient,
  patterns: readonly Pattern[],
  draw: DrawPattern = drawByMonitor,
): Promise<void> {
  for (const pattern of patterns) await draw(client, pattern);
  refuseUndrawn(await readNodes(client), patterns);
}

function refuseUndrawn(nodes: Nodes, patterns: readonly Pattern[]): void {
  for (const { node, sizeBytes, clusters } of patterns) {
    const drawn = countOf(nodes, node, 'pattern') ?? 0;
    if (drawn >= Math.min(sizeBytes, clusters.length * GRANULARITY_BYTES)) continue;
    throw new QmpvaultError(
      'vm-unfit',
      "this QEMU's qemu-io monitor command cannot draw a bitmap's identity",
    );
  }
}

export interface IdentityQuestion {
  readonly bitmap: BitmapRef;
  readonly pattern: Pattern;
}

function countOf(nodes: Nodes, node: NodeName, name: string): number | undefined {
  return nodes.get(node)?.bitmaps.find((bitmap) => bitmap.name === name)?.countBytes;
}

/**
 * For each bitmap whether it holds the pattern that it was made with. Changes nothing on the bitmaps' own nodes;
 * the patterns' nodes exist only during the check.
 */
export async function checkIdentities(
  client: QmpClient,
  questions: readonly IdentityQuestion[],
  draw: DrawPattern = drawByMonitor,
): Promise<boolean[]> {
  const patterns = questions.map(({ pattern }) => pattern);
  let nodes: Nodes | undefined;
  try {
    for (const { bitmap, pattern } of questions) {
      const { node } = pattern;
      const empty = { node, granularity: GRANULARITY_BYTES, disabled: true };
      const merge = (target: string, bitmaps: readonly object[]) =>
        client.execute('block-dirty-bitmap-merge', { node, target, bitmaps });
      await draw(client, pattern);
      // QEMU does them in this order; both start from one copy, since the guest goes on writing.
      await Promise.all([
        client.execute('block-dirty-bitmap-add', { ...empty, name: 'alone' }),
        client.execute('block-dirty-bitmap-add', { ...empty, name: 'with-pattern' }),
        merge('alone', [bitmap]),
        merge('with-pattern', [
          { node, name: 'alone' },
          { node, name: 'pattern' },
        ]),
      ]);
    }
    nodes = await readNodes(client);
    refuseUndrawn(nodes, patterns);
    const counts = nodes;
    return patterns.map(({ node }) => {
      const count = countOf(counts, node, 'alone');
      return count !== undefined && count === countOf(counts, node, 'with-pattern');
    });
  } finally {
    const left = nodes ?? (await readNodes(client));
    for (const { node } of patterns) {
      if (left.has(node)) await client.execute('blockdev-del', { 'node-name': node });
    }
  }
}

/**
 * Removes bitmaps wherever in the VM they are: after a restart a disk's node may have another name, the names of
 * bitmaps are unique. One that is gone already is fine, an inconsistent one too. What lies below an overlay cannot be
 * removed until a commit makes it the disk again.
 */
export async function removeBitmaps(client: QmpClient, isWanted: (name: string) => boolean): Promise<void> {
  for (const [node, { bitmaps, readOnly }] of await readNodes(client)) {
    if (readOnly) continue;
    for (const { name } of bitmaps) {
      if (isWanted(name)) await client.execute('block-dirty-bitmap-remove', { node, name });
    }
  }
}
