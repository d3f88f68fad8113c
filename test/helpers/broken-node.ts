/** Storage under a node of a VM that fails from now on: QEMU's blkdebug, put in while the VM runs. */
import type { FixtureVm } from '../../vm-fixtures/guestless.ts';

interface Graph {
  readonly nodes: readonly { id: number; name: string; type: string }[];
  readonly edges: readonly { parent: number; child: number; name: string }[];
}

/** From when it returns on, each of these requests to the file of a qcow2 node is an EIO. @returns what mends it */
export async function breakNode(
  vm: FixtureVm,
  node: string,
  iotype: 'read' | 'write',
): Promise<() => Promise<void>> {
  const graph = (await vm.qmp.execute('x-debug-query-block-graph')) as Graph;
  const id = graph.nodes.find(({ name, type }) => name === node && type === 'block-driver')?.id;
  const edge = graph.edges.find(({ parent, name }) => parent === id && name === 'file');
  const file = graph.nodes.find((other) => other.id === edge?.child)?.name;
  const broken = `broken-${node}`;
  const standOn = async (child: string | undefined) => {
    const options = { driver: 'qcow2', 'node-name': node, file: child, discard: 'unmap' };
    await vm.qmp.execute('blockdev-reopen', { options: [options] });
  };
  await vm.qmp.execute('blockdev-add', {
    driver: 'blkdebug',
    'node-name': broken,
    image: file,
    'inject-error': [{ event: 'none', iotype, errno: 5 }],
  });
  await standOn(broken);
  return async () => {
    await standOn(file);
    await vm.qmp.execute('blockdev-del', { 'node-name': broken });
  };
}
