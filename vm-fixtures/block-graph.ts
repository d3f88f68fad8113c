/** What a running QEMU says of its block layer, as the tests need it: devices, images, what a backup left behind. */
import type { QmpClient } from '../qmp/index.ts';
import { FixtureError } from './errors.ts';

export interface BlockDevice {
  /** as `qemu-io -d` and `qom-set` take it; an id when it does not begin with `/` */
  readonly qdev: string;
  readonly node: string;
  readonly file: string;
}

export interface BitmapState {
  readonly node: string;
  readonly name: string;
  readonly recording: boolean;
  readonly busy: boolean;
  readonly persistent: boolean;
  readonly inconsistent: boolean;
  readonly granularityBytes: number;
  readonly dirtyBytes: number;
}

export interface Leftovers {
  /** nodes whose names begin with `qv-` */
  readonly nodes: string[];
  /** all jobs, whoever started them */
  readonly jobs: string[];
  /** all block exports */
  readonly exports: string[];
  /** the bitmaps of every node */
  readonly bitmaps: BitmapState[];
}

interface NodeInfo {
  readonly 'node-name': string;
  readonly drv: string;
  readonly file: string;
  readonly 'dirty-bitmaps'?: readonly {
    readonly name?: string;
    readonly recording: boolean;
    readonly busy: boolean;
    readonly persistent: boolean;
    readonly inconsistent?: boolean;
    readonly granularity: number;
    readonly count: number;
  }[];
}

interface DeviceInfo {
  readonly qdev?: string;
  readonly inserted?: { readonly 'node-name': string; readonly file: string };
}

interface Graph {
  readonly nodes: readonly { readonly id: number; readonly name: string }[];
  readonly edges: readonly { readonly parent: number; readonly child: number; readonly name: string }[];
}

export async function blockDevices(qmp: QmpClient): Promise<BlockDevice[]> {
  const found = (await qmp.execute('query-block')) as DeviceInfo[];
  return found.flatMap(({ qdev, inserted }) =>
    qdev && inserted ? [{ qdev, node: inserted['node-name'], file: inserted.file }] : [],
  );
}

async function blockNodes(qmp: QmpClient): Promise<Map<string, NodeInfo>> {
  const nodes = (await qmp.execute('query-named-block-nodes', { flat: true })) as NodeInfo[];
  return new Map(nodes.map((node) => [node['node-name'], node]));
}

/** The image that a device writes to now: the first format node below whatever filters are on top. */
export async function activeImage(qmp: QmpClient, qdev: string): Promise<{ path: string; format: string }> {
  const nodes = await blockNodes(qmp);
  const graph = (await qmp.execute('x-debug-query-block-graph')) as Graph;
  const idOf = new Map(graph.nodes.map(({ id, name }) => [name, id]));
  const nameOf = new Map(graph.nodes.map(({ id, name }) => [id, name]));
  const below = (name: string): string | undefined => {
    const links = graph.edges.filter(({ parent }) => parent === idOf.get(name));
    // Some filters (backup-top, mirror-top, commit-top) call their child `backing`, the others `file`.
    const link = links.find((edge) => edge.name === 'file') ?? links.find((edge) => edge.name === 'backing');
    return link && nameOf.get(link.child);
  };
  let name = (await blockDevices(qmp)).find((device) => device.qdev === qdev)?.node;
  while (name !== undefined) {
    const node = nodes.get(name);
    if (node?.drv === 'qcow2' || node?.drv === 'raw') return { path: node.file, format: node.drv };
    name = below(name);
  }
  throw new FixtureError('vm-start', `no image found below ${qdev}`);
}

/** What a backup must not leave in the VM; its bitmaps are for the caller to judge. */
export async function leftovers(qmp: QmpClient): Promise<Leftovers> {
  const nodes = [...(await blockNodes(qmp)).values()];
  const jobs = (await qmp.execute('query-jobs')) as { id: string }[];
  const exports = (await qmp.execute('query-block-exports')) as { id: string }[];
  return {
    nodes: nodes.map((node) => node['node-name']).filter((name) => name.startsWith('qv-')),
    jobs: jobs.map(({ id }) => id),
    exports: exports.map(({ id }) => id),
    bitmaps: nodes.flatMap((node) =>
      (node['dirty-bitmaps'] ?? []).map((bitmap) => ({
        node: node['node-name'],
        name: bitmap.name ?? '',
        recording: bitmap.recording,
        busy: bitmap.busy,
        persistent: bitmap.persistent,
        inconsistent: bitmap.inconsistent ?? false,
        granularityBytes: bitmap.granularity,
        dirtyBytes: bitmap.count,
      })),
    ),
  };
}
