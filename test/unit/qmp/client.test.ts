import t from 'tap';
import { QmpClient } from '../../../qmp/index.ts';
import { connectedClient, eventOf, GREETING } from '../../helpers/fake-qemu.ts';
import { ScriptedPeer } from '../../helpers/scripted-peer.ts';

t.test('a client knows the version and that oob was negotiated', async (t) => {
  const { client } = await connectedClient(t);
  t.same(client.version, { major: 7, minor: 2, micro: 22, text: '7.2.22' });
  t.equal(client.oob, true);
  t.equal(client.isOpen, true);
});

t.test('a command is sent with its arguments, in band or out of band, and returns the value', async (t) => {
  const { client, qemu } = await connectedClient(t);
  const status = client.execute('query-status', { a: 1 });
  const first = await qemu.request();
  t.match(first, { execute: 'query-status', arguments: { a: 1 }, id: String });
  const yank = client.execute('yank', { instances: [] }, { oob: true });
  const second = await qemu.request();
  t.match(second, { 'exec-oob': 'yank', arguments: { instances: [] }, id: String });
  qemu.send({ return: {}, id: second.id }, { return: { running: true }, id: first.id });
  t.same(await yank, {});
  t.same(await status, { running: true });
});

t.test('a refused command rejects with class, description and command, and the next one works', async (t) => {
  const { client, qemu } = await connectedClient(t);
  const refused = client.execute('nope');
  const { id } = await qemu.request();
  qemu.send({ error: { class: 'CommandNotFound', desc: 'not found' }, id });
  await t.rejects(refused, {
    name: 'QmpCommandError',
    code: 'qmp-command',
    command: 'nope',
    errorClass: 'CommandNotFound',
    description: 'not found',
    details: { command: 'nope', class: 'CommandNotFound', description: 'not found' },
  });
  const next = client.execute('next');
  qemu.send({ return: 1, id: (await qemu.request()).id });
  t.equal(await next, 1);
});

t.test('a socket without a listener is qmp-connect with the errno', async (t) => {
  const { path } = await ScriptedPeer.listen(t);
  await t.rejects(QmpClient.connect({ path: `${path}.none` }), {
    code: 'qmp-connect',
    cause: { code: 'ENOENT' },
  });
});

t.test('silence is no greeting', async (t) => {
  const peer = await ScriptedPeer.listen(t);
  const connecting = QmpClient.connect({ path: peer.path, greetingTimeoutMs: 10 });
  const silent = await peer.accept(t);
  await t.rejects(connecting, { code: 'qmp-no-greeting', details: { path: peer.path } });
  await silent.closed();
});

t.test('a greeting and then silence is a timeout: the main loop hangs', async (t) => {
  const peer = await ScriptedPeer.listen(t);
  const connecting = QmpClient.connect({ path: peer.path, greetingTimeoutMs: 50 });
  const qemu = await peer.accept(t);
  qemu.send(GREETING);
  await t.rejects(connecting, { code: 'qmp-timeout' });
  await qemu.closed();
});

t.test('a peer that closes before it can be used is qmp-connect', async (t) => {
  for (const before of [[], [GREETING]]) {
    const peer = await ScriptedPeer.listen(t);
    const connecting = QmpClient.connect({ path: peer.path });
    const qemu = await peer.accept(t);
    qemu.send(...before);
    qemu.end();
    await t.rejects(connecting, { code: 'qmp-connect' });
  }
});

t.test('a peer that does not speak QMP is told apart at once', async (t) => {
  for (const text of ['SSH-2.0-OpenSSH\n', '{"hello":1}\n', 'null\n', '[]\n', 'x'.repeat(5000)]) {
    const peer = await ScriptedPeer.listen(t);
    const connecting = QmpClient.connect({ path: peer.path, maxLineBytes: 1000 });
    const qemu = await peer.accept(t);
    qemu.raw(text);
    await t.rejects(connecting, { code: 'qmp-protocol' });
    await qemu.closed();
  }
});

t.test('connecting can be aborted', async (t) => {
  const peer = await ScriptedPeer.listen(t);
  const controller = new AbortController();
  const connecting = QmpClient.connect({ path: peer.path, signal: controller.signal });
  const qemu = await peer.accept(t);
  controller.abort();
  await t.rejects(connecting, { code: 'qmp-aborted' });
  await qemu.closed();
  await t.rejects(QmpClient.connect({ path: peer.path, signal: controller.signal }), { code: 'qmp-aborted' });
});

t.test('a late reply is dropped and the connection stays usable', async (t) => {
  const { client, qemu } = await connectedClient(t);
  await t.rejects(client.execute('slow', {}, { timeoutMs: 5 }), {
    code: 'qmp-timeout',
    details: { command: 'slow', sent: true },
  });
  const slow = await qemu.request();
  const next = client.execute('next');
  const { id } = await qemu.request();
  qemu.send({ return: 'late', id: slow.id }, { return: 'right', id });
  t.equal(await next, 'right');
  t.equal(client.isOpen, true);
});

t.test('an aborted command tells whether it was sent', async (t) => {
  const { client, qemu } = await connectedClient(t);
  const controller = new AbortController();
  const { signal } = controller;
  const calls = [...Array(8)].map((_, index) => client.execute(`c${index}`, {}, { signal }));
  for (let count = 0; count < 7; count += 1) await qemu.request();
  controller.abort();
  const results = await Promise.allSettled(calls);
  t.match(results[6], { reason: { code: 'qmp-aborted', details: { command: 'c6', sent: true } } });
  t.match(results[7], { reason: { code: 'qmp-aborted', details: { command: 'c7', sent: false } } });
  await t.rejects(client.execute('c8', {}, { signal }), { code: 'qmp-aborted' });
});

t.test('a connection cut with a command in flight leaves its outcome unknown', async (t) => {
  const { client, qemu } = await connectedClient(t);
  const listener = client.listen();
  const sent = client.execute('transaction');
  await qemu.request();
  qemu.send(eventOf('SHUTDOWN'));
  qemu.end();
  await t.rejects(sent, {
    code: 'qmp-outcome-unknown',
    details: { command: 'transaction' },
    cause: { code: 'qmp-closed' },
  });
  t.match(await client.closed, { code: 'qmp-closed' });
  t.equal(client.isOpen, false);
  await t.rejects(client.execute('after'), { code: 'qmp-closed', details: { command: 'after' } });
  t.equal((await listener.next()).name, 'SHUTDOWN');
  await t.rejects(listener.next(), { code: 'qmp-closed' });
  await t.rejects(client.listen().next(), { code: 'qmp-closed' });
});

t.test('a breach of the protocol ends the connection with its reason', async (t) => {
  for (const breach of [
    '{"return":{},"id":"never"}\n',
    '{"return":{}}\n',
    'garbage\n',
    '7\n',
    'x'.repeat(5000),
  ]) {
    const { client, qemu } = await connectedClient(t, { maxLineBytes: 1000 });
    const sent = client.execute('cont');
    await qemu.request();
    qemu.raw(breach);
    await t.rejects(sent, { code: 'qmp-outcome-unknown', cause: { code: 'qmp-protocol' } });
    t.match(await client.closed, { code: 'qmp-protocol' });
    await qemu.closed();
  }
});

t.test('close is idempotent, waits, and leaves what was in flight unknown', async (t) => {
  const { client, qemu } = await connectedClient(t);
  const events = client.listen();
  const iterating = (async () => {
    for await (const event of events) t.fail(event.name);
  })();
  const sent = t.rejects(client.execute('cont'), { code: 'qmp-outcome-unknown' });
  await qemu.request();
  await Promise.all([client.close(), client.close()]);
  await client[Symbol.asyncDispose]();
  t.equal(await client.closed, null);
  t.equal(client.socket.destroyed, true);
  await sent;
  await iterating;
  await qemu.closed();
});

t.test('a listener opened before the command sees every event of it', async (t) => {
  const { client, qemu } = await connectedClient(t);
  const all = client.listen();
  const stops = client.listen(({ name }) => name === 'STOP');
  const stop = client.execute('stop');
  const { id } = await qemu.request();
  qemu.send(eventOf('STOP', { n: 1 }), { return: {}, id }, eventOf('RESUME'));
  await stop;
  t.match(await stops.next(), { name: 'STOP', data: { n: 1 }, timeMs: 1000 });
  t.equal((await all.next()).name, 'STOP');
  t.equal((await all.next()).name, 'RESUME');
  stops.close();
  qemu.send(eventOf('STOP'));
  t.equal((await all.next()).name, 'STOP');
  t.same(stops.take(), []);
});

t.test('a flood of events costs bounded memory and does not keep a reply away', async (t) => {
  const { client, qemu } = await connectedClient(t);
  const listener = client.listen();
  const status = client.execute('query-status');
  const { id } = await qemu.request();
  const flood = `${JSON.stringify(eventOf('BLOCK_IO_ERROR'))}\n`.repeat(1000);
  for (let round = 0; round < 10; round += 1) qemu.raw(flood);
  qemu.send({ return: {}, id });
  t.same(await status, {});
  t.equal(listener.take().length + listener.dropped, 10_000);
  t.ok(listener.dropped > 8000);
});
