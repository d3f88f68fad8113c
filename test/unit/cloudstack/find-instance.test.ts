import { mkdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import type { Engine } from '../../../src/backup/engine.ts';
import { silent } from '../../../src/base/log.ts';
import { findInstance } from '../../../src/cloudstack/find-instance.ts';
import type { Site } from '../../../src/cloudstack/site.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

function siteIn(dir: string): Site {
  const engine = { runtimeDir: dir, log: silent } as unknown as Engine;
  const ask = () => Promise.reject(new Error('nothing is asked'));
  return { engine, signal: new AbortController().signal, ask, configFile: join(dir, 'config.yaml') };
}

/** The daemon's side of one question. */
async function answering(
  t: { teardown(undo: () => unknown): unknown },
  socket: string,
  vms: object[],
): Promise<void> {
  const server = createServer((client) => {
    client.on('data', (text) => {
      const { id } = JSON.parse(text.toString());
      client.write(`${JSON.stringify({ jsonrpc: '2.0', id, result: { vms } })}\n`);
    });
  });
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(socket, resolve);
  t.teardown(() => server.close());
  await promise;
}

t.test(
  'the daemon is asked where it runs; a VM that it takes for stopped is looked for further',
  async (t) => {
    const dir = tempDir(t);
    const nobody = await findInstance('i-0-0-NOBODY', siteIn(dir));
    t.strictSame(nobody, { qmp: undefined }, 'without a daemon, and without such a VM');
    mkdirSync(join(dir, 'with'));
    const site = siteIn(join(dir, 'with'));
    const vm = { name: 'i-0-1-VM', state: 'running', qmp: '/run/a.qmp', agent: '/run/a.qga' };
    await answering(t, join(dir, 'with', 'rpc.sock'), [vm, { ...vm, name: 'i-0-2-VM', state: 'stopped' }]);
    t.strictSame(await findInstance('i-0-1-VM', site), { qmp: '/run/a.qmp', agent: '/run/a.qga' });
    t.strictSame(await findInstance('i-0-2-VM', site), { qmp: undefined });
  },
);
