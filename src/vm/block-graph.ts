/**
 * One reading of a VM's block graph: devices, nodes, and which node stands on which.
 *
 * The edges come from `x-debug-query-block-graph`, which every QEMU from 4.0 to 11.1 has with one form;
 * `children` in query-named-block-nodes exists only since 10.1. What is read here is a snapshot: anyone else may
 * change the graph at any time, so whoever changes it reads it again first.
 */
import { z } from 'zod';
import type { QmpClient } from '../../qmp/index.ts';

declare const brand: unique symbol;
export type NodeName = string & { readonly [brand]: 'NodeName' };
export const nodeName = (name: string): NodeName => name as NodeName;

export interface Bitmap {
  readonly name: string;
  readonly granularityBytes: number;
  readonly countBytes: number;
  readonly recording: boolean;
  readonly busy: boolean;
  readonly persistent: boolean;
  readonly inconsistent: boolean;
}

export interface BlockNode {
  readonly name: NodeName;
  readonly driver: string;
  readonly readOnly: boolean;
  /** QEMU's name of the image: a path, or `json:{…}` where no path says it all. */
  readonly filename: string;
  readonly sizeBytes: number;
  /** What the image's own file takes on the host, without its backing files. */
  readonly allocatedBytes: number;
  /** qcow2 only: `0.10` or `1.1`. */
  readonly compat: string | null;
  /** Internal snapshots of the image (qcow2). */
  readonly snapshots: number;
  readonly bitmaps: readonly Bitmap[];
}

export interface BlockDevice {
  /** QOM path of the device whose `drive` property names the node. */
  readonly qomPath: string | null;
  /** The id that the operator gave the device, if any. */
  readonly id: string | null;
  /** The name of the `-drive`, if any (`virtio0`). */
  readonly driveName: string | null;
  readonly removable: boolean;
  readonly readOnly: boolean;
  /** Top of what the device sees; null: no medium. */
  readonly root: NodeName | null;
}

interface Edge {
  readonly parent: NodeName;
  readonly child: NodeName;
  readonly role: string;
}

const BitmapReply = z.object({
  name: z.string().optional(),
  granularity: z.number(),
  count: z.number(),
  recording: z.boolean(),
  busy: z.boolean(),
  persistent: z.boolean(),
  inconsistent: z.boolean().optional(),
});

const NodesReply = z.array(
  z.object({
    'node-name': z.string(),
    drv: z.string(),
    ro: z.boolean(),
    file: z.string(),
    image: z.object({
      'virtual-size': z.number(),
      'actual-size': z.number().optional(),
      'format-specific': z
        .object({ data: z.object({ compat: z.string().optional() }).optional() })
        .optional(),
      snapshots: z.array(z.unknown()).optional(),
    }),
    'dirty-bitmaps': z.array(BitmapReply).optional(),
  }),
);

const BlockReply = z.array(
  z.object({
    device: z.string(),
    qdev: z.string().optional(),
    removable: z.boolean(),
    inserted: z.object({ 'node-name': z.string(), ro: z.boolean() }).optional(),
  }),
);

const GraphReply = z.object({
  nodes: z.array(z.object({ id: z.number(), type: z.string(), name: z.string() })),
  edges: z.array(z.object({ parent: z.number(), child: z.number(), name: z.string() })),
});

/** Drivers that pass through what their one child holds, and the name of that child. */
const FILTERS: Readonly<Record<string, readonly string[]>> = {
  throttle: ['file'],
  'copy-before-write': ['file'],
  'copy-on-read': ['file'],
  compress: ['file'],
  preallocate: ['file'],
  blklogwrites: ['file'],
  blkdebug: ['image', 'file'],
  'backup-top': ['backing'],
  mirror_top: ['backing'],
  commit_top: ['backing'],
};

export class BlockGraph {
  readonly devices: readonly BlockDevice[];
  readonly nodes: Nodes;
  readonly #edges: readonly Edge[];

  constructor(devices: readonly BlockDevice[], nodes: Nodes, edges: readonly Edge[]) {
    this.devices = devices;
    this.nodes = nodes;
    this.#edges = edges;
  }

  child(parent: NodeName, ...roles: readonly string[]): NodeName | null {
    for (const role of roles) {
      const edge = this.#edges.find((e) => e.parent === parent && e.role === role);
      if (edge !== undefined) return edge.child;
    }
    return null;
  }

  /** The nodes that stand on this one, with the role it has for them. */
  parents(child: NodeName): readonly { parent: NodeName; role: string }[] {
    return this.#edges.filter((e) => e.child === child);
  }

  /** From a device's root down through filters to the node that holds the image: the one bitmaps belong on. */
  dataNode(root: NodeName): BlockNode | null {
    let node = this.nodes.get(root);
    for (let depth = 0; node !== undefined && depth < 32; depth += 1) {
      const roles = FILTERS[node.driver];
      if (roles === undefined) return node;
      const child = this.child(node.name, ...roles);
      node = child === null ? undefined : this.nodes.get(child);
    }
    return null;
  }

  /** Whether one of the filters between a device's root and its image is of this driver. */
  passesThrough(root: NodeName, driver: string): boolean {
    let node = this.nodes.get(root);
    for (let depth = 0; node !== undefined && depth < 32; depth += 1) {
      if (node.driver === driver) return true;
      const child = this.child(node.name, ...(FILTERS[node.driver] ?? []));
      node = child === null ? undefined : this.nodes.get(child);
    }
    return false;
  }

  /** Bytes on the host of an image with all its backing files. */
  chainAllocatedBytes(top: NodeName): number {
    let sum = 0;
    let name: NodeName | null = top;
    for (let depth = 0; name !== null && depth < 512; depth += 1) {
      sum += this.nodes.get(name)?.allocatedBytes ?? 0;
      name = this.child(name, 'backing');
    }
    return sum;
  }
}

export type Nodes = ReadonlyMap<NodeName, BlockNode>;

/** The nodes alone, for whoever asks only for their bitmaps. */
export async function readNodes(client: QmpClient): Promise<Nodes> {
  const named = NodesReply.parse(await client.execute('query-named-block-nodes', { flat: true }));
  return new Map(
    named.map((entry): [NodeName, BlockNode] => [
      nodeName(entry['node-name']),
      {
        name: nodeName(entry['node-name']),
        driver: entry.drv,
        readOnly: entry.ro,
        filename: entry.file,
        sizeBytes: entry.image['virtual-size'],
        allocatedBytes: entry.image['actual-size'] ?? 0,
        compat: entry.image['format-specific']?.data?.compat ?? null,
        snapshots: entry.image.snapshots?.length ?? 0,
        bitmaps: (entry['dirty-bitmaps'] ?? []).flatMap(bitmapOf),
      },
    ]),
  );
}

export async function readBlockGraph(client: QmpClient): Promise<BlockGraph> {
  const [block, nodes, graph] = await Promise.all([
    client.execute('query-block'),
    readNodes(client),
    client.execute('x-debug-query-block-graph'),
  ]);
  const devices = BlockReply.parse(block).map(
    (entry): BlockDevice => ({
      ...deviceOf(entry.qdev),
      driveName: entry.device === '' ? null : entry.device,
      removable: entry.removable,
      readOnly: entry.inserted?.ro ?? false,
      root: entry.inserted === undefined ? null : nodeName(entry.inserted['node-name']),
    }),
  );
  const { nodes: vertices, edges } = GraphReply.parse(graph);
  const names = new Map(
    vertices.filter((v) => v.type === 'block-driver').map((v) => [v.id, nodeName(v.name)]),
  );
  return new BlockGraph(
    devices,
    nodes,
    edges.flatMap((edge) => {
      const [parent, child] = [names.get(edge.parent), names.get(edge.child)];
      return parent === undefined || child === undefined ? [] : [{ parent, child, role: edge.name }];
    }),
  );
}

/** A bitmap without a name belongs to a running job; nobody can address it. */
function bitmapOf(reply: z.infer<typeof BitmapReply>): Bitmap[] {
  if (reply.name === undefined || reply.name === '') return [];
  return [
    {
      name: reply.name,
      granularityBytes: reply.granularity,
      countBytes: reply.count,
      recording: reply.recording,
      busy: reply.busy,
      persistent: reply.persistent,
      inconsistent: reply.inconsistent ?? false,
    },
  ];
}

/**
 * `qdev` is the device's id, or a QOM path when it begins with `/`: of an unnamed device, or of the part of a
 * virtio device that carries the drive (`/machine/peripheral/vda/virtio-backend`).
 */
function deviceOf(qdev: string | undefined): Pick<BlockDevice, 'qomPath' | 'id'> {
  if (qdev === undefined || qdev === '') return { qomPath: null, id: null };
  if (!qdev.startsWith('/')) return { qomPath: `/machine/peripheral/${qdev}`, id: qdev };
  return { qomPath: qdev, id: /^\/machine\/peripheral\/([^/]+)/.exec(qdev)?.[1] ?? null };
}
