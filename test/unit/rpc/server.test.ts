import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execaNode } from 'execa';
import { type Test, test } from 'tap';
import type { ConnectionLimits } from '../../../src/rpc/connection.ts';
import { inheritedSocket, RpcServer } from '../../../src/rpc/server.ts';
import { LineClient } from '../../helpers/line-client.ts';
import { HANDLERS, METHODS } from '../../helpers/rpc-fixture.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

const methods = METHODS;
const handlers = HANDLERS;

async function serve(
  t: Test,
  options: { limits?: Partial<ConnectionLimits>; clientsMax?: number } = {},
): Promise<{ server: RpcServer; path: string; connect: () => Promise<LineClient> }> {
  const path = join(tempDir(t), 's');
  const server = await RpcServer.listen({ methods, handlers, listen: { path }, ...options });
  t.teardown(() => server.close());
  return { server, path, connect: () => LineClient.connect(t, path) };
}

function request(method: string, params: object, id: unknown): string {
  return JSON.stringify({ jsonrpc: '2.0', method, params, id });
}

/** That the server still serves. */
async function works(t: Test, client: LineClient): Promise<void> {
  t.match(await client.ask(request('echo', { a: 1 }, 'works')), { id: 'works', result: { a: 1 } });
}

test('the socket is for its owner and group, and goes with the server', async (t) => {
  const path = join(tempDir(t), 's');
  const gid = process.getgid?.() ?? 0;
  const server = await RpcServer.listen({ methods, handlers, listen: { path, group: `${gid}` } });
  const { mode, gid: group } = statSync(path);
  t.equal(mode & 0o777, 0o660);
  t.equal(group, gid);
  const [first, second] = [server.close(), server.close()];
  t.equal(first, second, 'closing is idempotent');
  await first;
  t.notOk(existsSync(path));
});

test('a group is found by its name', async (t) => {
  const path = join(tempDir(t), 's');
  const listen = { path, group: 'nobody-has-this-group' };
  await t.rejects(RpcServer.listen({ methods, handlers, listen }), { code: 'socket-unfit' });
  const gid = process.getgid?.() ?? 0;
  const name = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((line) => line.split(':')[2] === `${gid}`)
    ?.split(':')[0];
  if (name === undefined) return;
  await using _server = await RpcServer.listen({ methods, handlers, listen: { path, group: name } });
  t.equal(statSync(path).gid, gid);
});

test('a socket that somebody answers on is left to him', async (t) => {
  const { path, connect } = await serve(t);
  await t.rejects(RpcServer.listen({ methods, handlers, listen: { path } }), { code: 'socket-unfit' });
  await works(t, await connect());
});

test('what is no socket is left alone', async (t) => {
  const path = join(tempDir(t), 's');
  writeFileSync(path, 'precious');
  await t.rejects(RpcServer.listen({ methods, handlers, listen: { path } }), { code: 'socket-unfit' });
  t.equal(readFileSync(path, 'utf8'), 'precious');
});

test('a stale socket is replaced', async (t) => {
  const dir = tempDir(t);
  const path = join(dir, 's');
  // Nothing removes the socket of a process that is killed.
  const script = `require('net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`;
  const file = join(dir, 'die.cjs');
  writeFileSync(file, script);
  await execaNode(file, { reject: false });
  t.ok(statSync(path).isSocket());
  await using _server = await RpcServer.listen({ methods, handlers, listen: { path } });
  await works(t, await LineClient.connect(t, path));
});

test('the socket of a successor stays', async (t) => {
  const { server, path } = await serve(t);
  rmSync(path);
  await using _successor = await RpcServer.listen({ methods, handlers, listen: { path } });
  await server.close();
  t.ok(existsSync(path));
});

test('a path that no socket can have is refused', async (t) => {
  const path = join(tempDir(t), 'x'.repeat(100));
  await t.rejects(RpcServer.listen({ methods, handlers, listen: { path } }), { code: 'path-too-long' });
  await t.rejects(RpcServer.listen({ methods, handlers, listen: { path: join(tempDir(t), 'none/s') } }), {
    code: 'socket-unfit',
  });
});

test('a socket is taken from systemd if it is meant for this process', async (t) => {
  const names = (text: string) => ({ LISTEN_PID: '7', LISTEN_FDS: '2', LISTEN_FDNAMES: text });
  t.equal(inheritedSocket({}, 7), null);
  t.equal(inheritedSocket({ LISTEN_PID: '8', LISTEN_FDS: '1' }, 7), null, 'an inherited environment');
  t.equal(inheritedSocket({ LISTEN_PID: '7', LISTEN_FDS: '1' }, 7), 3);
  t.equal(inheritedSocket(names('metrics:rpc'), 7), 4);
  t.throws(() => inheritedSocket(names('a:b'), 7), { code: 'usage' });
});

test('a line that is too long is answered once, and the connection ends', async (t) => {
  const { connect } = await serve(t, { limits: { lineMaxBytes: 1000 } });
  const [hostile, other] = [await connect(), await connect()];
  hostile.send(request('echo', { a: 'x'.repeat(800) }, 1), 'x'.repeat(5000), request('echo', {}, 2));
  const answers = [await hostile.json(), await hostile.json()] as { id: unknown }[];
  t.match(
    answers.toSorted((a) => (a.id === 1 ? -1 : 1)),
    [{ id: 1 }, { id: null, error: { code: -32700, data: { code: 'rpc-no-json' } } }],
  );
  t.equal(await hostile.line(), null);
  await works(t, other);
});

test('who does not read is not read from, and is disconnected in the end', async (t) => {
  const limits = { unreadPauseBytes: 10_000, stallMs: 300 };
  const { server, connect } = await serve(t, { limits });
  const [slow, other] = [await connect(), await connect()];
  slow.socket.pause();
  for (let i = 0; i < 200; i += 1) slow.send(request('big', { chars: 1_000_000 }, i));
  while (server.clients > 1) await other.ask(request('echo', {}, 1));
  slow.socket.resume();
  await slow.ended;
});

test('who lets his answers pile up is disconnected', async (t) => {
  const { server, connect } = await serve(t, { limits: { unreadMaxBytes: 3_000_000 } });
  const slow = await connect();
  slow.socket.pause();
  slow.send(`[${Array.from({ length: 4 }, (_, id) => request('big', { chars: 1_000_000 }, id)).join()}]`);
  slow.send(...Array.from({ length: 8 }, (_, id) => request('big', { chars: 1_000_000 }, id)));
  const other = await connect();
  while (server.clients > 1) await other.ask(request('echo', {}, 1));
  slow.socket.resume();
  await slow.ended;
});

test('a slow reader is told the newest of each kind', async (t) => {
  const { connect } = await serve(t);
  const slow = await connect();
  slow.send(request('tell', { times: 10_000, keys: 10 }, 'told'));
  const told: number[] = [];
  for (;;) {
    const message = (await slow.json()) as { id?: unknown; params?: { i: number } };
    if (message.params) told.push(message.params.i);
    if (told.at(-1) === 9_999) break;
  }
  t.ok(told.length < 1_000, `${told.length} were told`);
  t.same(told.slice(-10), [9990, 9991, 9992, 9993, 9994, 9995, 9996, 9997, 9998, 9999]);
});

test('of too many notifications that wait the oldest are dropped', async (t) => {
  const { connect } = await serve(t, { limits: { notificationsMax: 5 } });
  const slow = await connect();
  slow.send(request('tell', { times: 10_000, keys: 10_000 }, 'told'));
  const told: number[] = [];
  while (told.at(-1) !== 9_999) {
    const message = (await slow.json()) as { params?: { i: number } };
    if (message.params) told.push(message.params.i);
  }
  t.same(told.slice(-5), [9995, 9996, 9997, 9998, 9999]);
  t.ok(told.length < 1_000);
});

test('calls of a client that has gone end', async (t) => {
  const { connect, server } = await serve(t, { limits: { lingerMs: 10 } });
  const other = await connect();
  for (const leave of ['destroy', 'end'] as const) {
    const client = await connect();
    client.send(request('wait', {}, 1));
    await works(t, client);
    client.socket[leave]();
    if (leave === 'end') t.match(await client.json(), { id: 1, error: { data: { code: 'cancelled' } } });
    while (server.clients > 1) await other.ask(request('echo', {}, 1));
  }
});

test('who sends nothing more still gets his answers', async (t) => {
  const { connect } = await serve(t);
  const client = await connect();
  // Without a newline, as `printf … | nc -U` sends it.
  client.socket.end(request('echo', { last: true }, 1));
  t.match(await client.json(), { id: 1, result: { last: true } });
  t.equal(await client.line(), null);
});

test('too many requests and too many clients are refused, each by its id', async (t) => {
  const { connect } = await serve(t, { limits: { inFlightMax: 3 }, clientsMax: 2 });
  const [busy, other] = [await connect(), await connect()];
  for (const id of [1, 2, 3]) busy.send(request('wait', {}, id));
  t.match(await busy.ask(request('echo', {}, 4)), { id: 4, error: { data: { code: 'daemon-busy' } } });
  const third = await connect();
  t.match(await third.json(), { id: null, error: { data: { code: 'daemon-busy' } } });
  t.equal(await third.line(), null);
  await works(t, other);
});

test('a batch of thousands is answered, and delays nobody', async (t) => {
  const { connect } = await serve(t);
  const [many, other] = [await connect(), await connect()];
  const order: string[] = [];
  many.send(`[${Array.from({ length: 10_000 }, (_, id) => request('echo', { id }, id)).join()}]`);
  const batch = many.json().then((answers) => {
    order.push('batch');
    return answers as { id: number; result: { id: number } }[];
  });
  await works(t, other);
  order.push('other');
  const answers = await batch;
  t.equal(answers.length, 10_000);
  t.ok(answers.every(({ id, result }) => result.id === id));
  t.same(order, ['other', 'batch']);
});

test('a batch of which the answers are too long is answered as far as it goes', async (t) => {
  const { connect } = await serve(t);
  const client = await connect();
  client.send(`[${Array.from({ length: 40 }, (_, id) => request('big', { chars: 1_000_000 }, id)).join()}]`);
  const answers = (await client.json()) as { id: number; error?: { data: { code: string } } }[];
  t.same(
    answers.map(({ id }) => id),
    Array.from({ length: 40 }, (_, id) => id),
  );
  const refused = answers.filter(({ error }) => error?.data.code === 'daemon-busy').length;
  t.ok(refused >= 10 && refused < 40, `${refused} were refused`);
});

test('closing ends what waits, and says why', async (t) => {
  const { server, connect } = await serve(t);
  const [waiting, idle] = [await connect(), await connect()];
  waiting.send(request('wait', {}, 1));
  await works(t, waiting);
  await works(t, idle);
  const closed = server.close();
  t.match(await waiting.json(), { id: 1, error: { data: { code: 'daemon-stopping' } } });
  t.equal(await waiting.line(), null);
  t.equal(await idle.line(), null);
  await closed;
});
