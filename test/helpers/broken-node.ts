/** Storage under a node of QEMU that fails, or is slow, from now on: filters that are put in while it runs. */
import type { QmpClient } from '../../qmp/index.ts';

interface Graph {
  readonly nodes: readonly { id: number; name: string; type: string }[];
  readonly edges: readonly { parent: number; child: number; name: string }[];
}

interface Place {
  /** The qcow2 node whose file it is. */
  readonly node: string;
  /** The name of the node that is put in. Default: one that no engine knows. */
  readonly as?: string;
  /** What the qcow2 node was opened with: reopening resets what it is not given. */
  readonly options?: object | undefined;
}

export interface Fault {
  readonly error: 'EIO' | 'ENOSPC';
  /** Which requests fail. Default: all that come next. */
  readonly iotype?: 'read' | 'write';
  /** The point in QEMU's own work from which on they do (qapi/block-core.json, BlkdebugEvent). Default: at once. */
  readonly event?: string;
}

const ERRNO = { EIO: 5, ENOSPC: 28 };

/** From when it returns on, these requests fail. @returns what mends it */
export function breakNode(
  qmp: QmpClient,
  { node, as = `broken-${node}`, options }: Place,
  { error, event = 'none', iotype }: Fault,
): Promise<() => Promise<void>> {
  const rule = { event, errno: ERRNO[error], ...(iotype && { iotype }) };
  return putUnder(qmp, { node, options }, as, (image) => [
    { driver: 'blkdebug', 'node-name': as, image, 'inject-error': [rule] },
  ]);
}

/**
 * From when it returns on, all that is written below this node and others of the same `group` goes no faster than that
 * together. As a network filesystem does, it works at all requests side by side, so that none of them ends soon.
 */
export function slowNode(
  qmp: QmpClient,
  { node, as = `slow-${node}`, options }: Place,
  group: string,
): Promise<() => Promise<void>> {
  return putUnder(qmp, { node, options }, as, (file) => [
    { driver: 'throttle', 'node-name': `${as}-queue`, 'throttle-group': group, file },
    { driver: 'blkdebug', 'node-name': as, image: `${as}-queue`, 'max-transfer': 65536 },
  ]);
}

async function putUnder(
  qmp: QmpClient,
  { node, options = { discard: 'unmap' } }: Place,
  top: string,
  filtersOver: (file: string) => readonly { readonly 'node-name': string; readonly [key: string]: unknown }[],
): Promise<() => Promise<void>> {
  const graph = (await qmp.execute('x-debug-query-block-graph')) as Graph;
  const id = graph.nodes.find(({ name, type }) => name === node && type === 'block-driver')?.id;
  const edge = graph.edges.find(({ parent, name }) => parent === id && name === 'file');
  const file = graph.nodes.find((other) => other.id === edge?.child)?.name ?? '';
  const standOn = (child: string) =>
    qmp.execute('blockdev-reopen', {
      options: [{ driver: 'qcow2', 'node-name': node, file: child, ...options }],
    });
  const filters = filtersOver(file);
  for (const filter of filters) await qmp.execute('blockdev-add', filter);
  await standOn(top);
  return async () => {
    await standOn(file);
    for (const filter of filters.toReversed()) {
      await qmp.execute('blockdev-del', { 'node-name': filter['node-name'] });
    }
  };
}
