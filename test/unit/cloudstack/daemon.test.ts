import { createServer } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Engine } from '../../../src/backup/engine.ts';
import { silent } from '../../../src/base/log.ts';
import { byDaemonOr } from '../../../src/cloudstack/daemon.ts';
import type { Site } from '../../../src/cloudstack/site.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

const WISH = {
  vault: { type: 'nfs', address: 'nas:/export' },
  vm: 'i-0-1-VM',
  point: '2026.11.20.02.01.01',
} as const;
const HERE = { deleted: ['here'] } as never;

function siteIn(dir: string, said: string[]): Site {
  const log = { ...silent, info: (_: unknown, text: string) => said.push(text) };
  const engine = { runtimeDir: dir, log } as unknown as Engine;
  return { engine, signal: new AbortController().signal, configFile: join(dir, 'config.yaml') };
}

type Call = { id: number; method: string };

/** A daemon that answers a call with these members, and not at all without. */
async function answering(t: Test, dir: string, answer: (call: Call) => object | null): Promise<void> {
  const server = createServer((client) => {
    client.on('error', () => {});
    client.on('data', (text) => {
      const call = JSON.parse(text.toString()) as Call;
      const members = answer(call);
      if (members !== null) client.write(`${JSON.stringify({ jsonrpc: '2.0', id: call.id, ...members })}\n`);
    });
  });
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(join(dir, 'rpc.sock'), resolve);
  t.teardown(() => server.close());
  await promise;
}

const ask = (site: Site, here = async () => HERE, answerMs = 5_000) =>
  byDaemonOr('delete', WISH, site, here, answerMs);

t.test(
  'without a daemon, and with one that is too old or too slow, it is done here, and the log says so',
  async (t) => {
    const refusals: Record<string, ((call: Call) => object | null) | null> = {
      'there is no socket': null,
      'has no method share.delete': () => ({ error: { code: -32601, message: 'Method not found' } }),
      'waited 50 ms': () => null,
    };
    for (const [why, answer] of Object.entries(refusals)) {
      const dir = tempDir(t);
      if (answer !== null) await answering(t, dir, answer);
      const said: string[] = [];
      t.equal(await ask(siteIn(dir, said), undefined, 50), HERE, why);
      t.match(said, [new RegExp(`^the delete is done without the daemon: .*${why}`)]);
    }
  },
);

t.test('a run that failed failed, and is not done here once more', async (t) => {
  const dir = tempDir(t);
  const error = { code: 'vault-full', message: 'the NAS is full', details: { free: 1 } };
  const run = { id: 'cafe', state: 'failed', endedAt: '2026-11-20T02:00:00Z', error };
  await answering(t, dir, ({ method }) => ({
    result: method === 'run.wait' ? run : { runId: 'cafe' },
  }));
  const here = async () => t.fail('it is done here') as never;
  await t.rejects(ask(siteIn(dir, []), here), {
    code: 'vault-full',
    message: 'the NAS is full',
    details: { free: 1, runId: 'cafe' },
  });
});
