import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { test } from 'tap';
import { QmpvaultError } from '../../src/base/errors.ts';
import { METHODS } from '../../src/rpc/methods.ts';
import { openRpcDocument } from '../../src/rpc/openrpc.ts';
import type { Run } from '../../src/rpc/run.ts';
import { type Handlers, RpcServer } from '../../src/rpc/server.ts';
import { tempDir } from '../helpers/temp-dir.ts';

const CLIENT = fileURLToPath(new URL('../helpers/rpc_client.py', import.meta.url));

/** Asks a client that has learnt from rpc.discover what there is. */
async function ask(path: string, calls: readonly [method: string, params: object][]): Promise<unknown[]> {
  const input = calls.map((call) => `${JSON.stringify(call)}\n`).join('');
  const { stdout } = await execa('python3', [CLIENT, path], { input });
  return stdout.split('\n').map((line) => JSON.parse(line));
}

const run: Run = {
  id: '0badcafe',
  what: 'backup',
  vm: 'web1',
  vault: 'nas',
  state: 'running',
  cause: 'requested',
  requestId: 'nightly',
  attempts: 1,
  notBefore: null,
  progress: null,
  warnings: [],
  createdAt: '2026-11-25T08:00:00.000Z',
  startedAt: '2026-11-25T08:00:01.000Z',
  endedAt: null,
};
const ended: Run = { ...run, state: 'succeeded', endedAt: '2026-11-25T08:01:00.000Z' };

test("Python's standard library is enough of a client", async (t) => {
  const path = join(tempDir(t), 's');
  const asked: unknown[] = [];
  const unused = Object.keys(METHODS).map((name) => [name, () => t.fail(name)]);
  const handlers = {
    ...Object.fromEntries(unused),
    'rpc.discover': openRpcDocument,
    'backup.start': (params, { client }) => {
      asked.push(params);
      for (const now of [run, ended]) client.notify('run.progress', { run: now }, `${asked.length}`);
      return { runId: run.id };
    },
    'run.wait': ({ runId }) => {
      if (runId === run.id) return ended;
      throw new QmpvaultError('run-unknown', `no run ${runId}`, { details: { run: runId } });
    },
    'point.list': () => ({ points: [], warnings: ['Grüße, \u2028 and 💾'] }),
  } as Handlers<typeof METHODS>;
  await using _server = await RpcServer.listen({ methods: METHODS, handlers, listen: { path } });
  const answers = await ask(path, [
    ['backup.start', { vm: 'web1', bandwidth: '20MiB/s', requestId: 'nightly' }],
    ['run.wait', { runId: run.id, timeoutMs: 1000 }],
    ['run.wait', { runId: 'none' }],
    ['point.list', { vm: 'web1' }],
    ['backup.strat', {}],
    ['backup.start', { vm: '../etc' }],
    ['notifications', {}],
  ]);
  t.same(asked, [{ vm: 'web1', bandwidth: 20 * 1024 ** 2, requestId: 'nightly' }]);
  t.match(answers, [
    { result: { runId: run.id } },
    { result: { state: 'succeeded' } },
    { error: { code: -32014, data: { code: 'run-unknown', details: { run: 'none' } } } },
    { result: { points: [], warnings: ['Grüße, \u2028 and 💾'] } },
    { error: { code: -32601, message: 'Method not found' } },
    { error: { code: -32001, data: { code: 'name-invalid' } } },
    { result: [{ method: 'run.progress' }, { method: 'run.progress' }] },
  ]);
});
