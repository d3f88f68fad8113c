import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { QmpvaultError } from '../../../src/base/errors.ts';
import { RpcClient } from '../../../src/rpc/client.ts';
import { METHODS, type MethodName } from '../../../src/rpc/methods.ts';
import { openRpcDocument } from '../../../src/rpc/openrpc.ts';
import { type Handlers, RpcServer } from '../../../src/rpc/server.ts';
import { METHODS as FIXTURE, HANDLERS } from '../../helpers/rpc-fixture.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

async function connect(t: Test, path: string): Promise<RpcClient> {
  const client = await RpcClient.connect(path);
  t.teardown(() => client.close());
  return client;
}

/** A client of a server with the methods of the fixture. */
async function fixture(t: Test) {
  const path = join(tempDir(t), 's');
  const server = await RpcServer.listen({ methods: FIXTURE, handlers: HANDLERS, listen: { path } });
  t.teardown(() => server.close());
  return { server, client: await connect(t, path) };
}

/** A peer that says what the test wants. */
async function scripted(t: Test, talk: (socket: Socket) => void): Promise<RpcClient> {
  const path = join(tempDir(t), 's');
  const server = createServer((socket) => {
    socket.on('error', () => {});
    t.teardown(() => socket.destroy());
    talk(socket);
  });
  t.teardown(() => server.close());
  server.listen(path);
  await once(server, 'listening');
  return connect(t, path);
}

test('calls of the table are typed, and errors come out as they went in', async (t) => {
  const path = join(tempDir(t), 's');
  const details = { vm: 'web1', known: ['a'] };
  const unused = Object.keys(METHODS).map((name) => [name, () => t.fail(name)]);
  const handlers = {
    ...Object.fromEntries(unused),
    'vm.list': () => ({ vms: [] }),
    'point.list': () => {
      throw new QmpvaultError('vm-unknown', 'no VM web1', { details });
    },
    'rpc.discover': openRpcDocument,
  } as Handlers<typeof METHODS>;
  await using _server = await RpcServer.listen({ methods: METHODS, handlers, listen: { path } });
  const client = await connect(t, path);
  const { vms } = await client.call('vm.list', {});
  t.same(vms, []);
  const error = { code: 'vm-unknown', message: 'no VM web1', details };
  await t.rejects(client.call('point.list', { vm: 'web1' }), error);
  await t.rejects(client.call('run.get', {} as { runId: string }), { code: 'usage', message: /runId/ });
  await t.rejects(client.callByName('point.lst', {}), { code: 'method-unknown', message: /point.lst/ });
  t.same(await client.call('rpc.discover', {}), JSON.parse(JSON.stringify(openRpcDocument())));
});

test('nobody there: nothing was asked', async (t) => {
  const path = join(tempDir(t), 's');
  await t.rejects(RpcClient.connect(path), { code: 'daemon-unreachable', message: /there is no socket/ });
  await t.rejects(RpcClient.connect(path.padEnd(200, 'x')), { code: 'path-too-long' });
});

test('a connection that is lost before the answer leaves open what was done', async (t) => {
  const client = await scripted(t, (socket) => socket.once('data', () => socket.destroy()));
  const error = { code: 'daemon-lost', details: { method: 'run.get' } };
  await t.rejects(client.call('run.get', { runId: 'a' }), error);
  await t.rejects(client.call('run.get', { runId: 'a' }), { code: 'daemon-unreachable' });
});

test('a peer that is no daemon is left', async (t) => {
  for (const said of [
    'hello\n',
    '{}\n',
    '[]\n',
    '7\n',
    'null\n',
    '{"id":1,"error":null}\n',
    '{"jsonrpc":"2.0","id":1}\n',
  ]) {
    const client = await scripted(t, (socket) => socket.write(said));
    await t.rejects(client.call('run.get', { runId: 'a' }), { code: /daemon-(lost|unreachable)/ }, said);
  }
});

test('a call ends by its deadline or signal, and its late answer disturbs nobody', async (t) => {
  const { client } = await fixture(t);
  await t.rejects(client.callByName('wait', {}, { timeoutMs: 10 }), { code: 'daemon-timeout' });
  const controller = new AbortController();
  const waiting = client.callByName('wait', {}, { signal: controller.signal });
  controller.abort(new QmpvaultError('cancelled', 'enough'));
  await t.rejects(waiting, { code: 'cancelled', message: 'enough' });
  t.same(await client.callByName('echo', { a: 1 }), { a: 1 });
});

test('one client too many hears that', async (t) => {
  const { server, client } = await fixture(t);
  server.clientsMax = 1;
  const second = await connect(t, client.path);
  await t.rejects(second.callByName('echo', {}), { code: /daemon-(busy|unreachable)/ });
  t.same(await client.callByName('echo', {}), {});
});

test('the end of the daemon is told to who waits', async (t) => {
  const { server, client } = await fixture(t);
  const waiting = client.callByName('wait', {});
  await client.callByName('echo', {});
  const [error] = await Promise.all([waiting.catch((error: unknown) => error), server.close()]);
  t.match(error, { code: 'daemon-stopping' });
});

test('closing ends what waits as cancelled', async (t) => {
  const { client } = await fixture(t);
  const waiting = client.callByName('wait', {});
  const [error] = await Promise.all([
    waiting.catch((error: unknown) => error),
    client.close(),
    client.close(),
  ]);
  t.match(error, { code: 'cancelled' });
});

test('a listener hears what it asked for in order, and then of the end', async (t) => {
  const progress = (id: string) => ({ jsonrpc: '2.0', method: 'run.progress', params: { run: { id } } });
  const finished = { jsonrpc: '2.0', method: 'run.finished', params: { run: { id: 'b' } } };
  const client = await scripted(t, (socket) => {
    socket.once('data', () => {
      for (const message of [progress('a'), finished, progress('b')]) {
        socket.write(`${JSON.stringify(message)}\n`);
      }
      socket.end();
    });
  });
  using all = client.listen('run.progress', 'run.finished');
  using ends = client.listen('run.finished');
  await t.rejects(client.call('run.subscribe', {}), { code: 'daemon-lost' });
  for (const id of ['a', 'b', 'b']) t.match(await all.next(), { params: { run: { id } } });
  await t.rejects(all.next(), { code: 'daemon-lost' });
  const heard: string[] = [];
  const hear = async () => {
    for await (const { params } of ends) heard.push(params.run.id);
  };
  await t.rejects(hear(), { code: 'daemon-lost' });
  t.same(heard, ['b']);
});

test('what waits for something to happen has no deadline of its own', async (t) => {
  const waits = (Object.keys(METHODS) as MethodName[]).filter((name) => 'waits' in METHODS[name]);
  t.same(waits, ['run.wait']);
});
