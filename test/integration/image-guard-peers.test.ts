/** The guard against scripted peers: what it sends, when, and how it takes what comes back. */
import { once } from 'node:events';
import net from 'node:net';
import { execa } from 'execa';
import t from 'tap';
import { bounded, until } from '../../src/base/deadline.ts';
import { Guard, type GuardOptions } from '../../src/image/guard.ts';
import { type PeerConnection, ScriptedPeer } from '../helpers/scripted-peer.ts';
import { processesIn, signalIfThere, type Teardown, tempDir } from '../helpers/temp-dir.ts';

interface Connected {
  readonly ours: net.Socket;
  readonly peer: PeerConnection;
}

/** Our end is that of a deaf engine: paused, it reads nothing of what the guard is to read. */
async function connect(t: Teardown): Promise<Connected> {
  const listener = await ScriptedPeer.listen(t);
  const ours = net.connect(listener.path).pause();
  t.teardown(() => ours.destroy());
  const peer = await listener.accept(t);
  return { ours, peer };
}

async function guard(t: Teardown, options: GuardOptions): Promise<Guard> {
  const guard = await Guard.start(options);
  t.teardown(() => guard.end());
  return guard;
}

/** Answers like a VM in this state until it runs. */
async function playVm(peer: PeerConnection, status: string): Promise<string[]> {
  const asked: string[] = [];
  for (let state = status; ; ) {
    const { execute = '', id } = await peer.request();
    asked.push(execute);
    if (execute === 'cont') state = 'running';
    peer.send({
      return: execute === 'query-status' ? { status: state, running: state === 'running' } : {},
      id,
    });
    if (execute === 'query-status' && state !== 'paused') return asked;
  }
}

/** Which lines reach the peer although nobody was to say anything; the guard has ended then. */
async function saidUntilEnd(guard: Guard, { ours, peer }: Connected): Promise<string | undefined> {
  await guard.end();
  ours.destroy();
  return peer.line();
}

t.test('a pause that is over in time is nobody’s business', async (t) => {
  const vm = await connect(t);
  const it = await guard(t, { qmp: vm.ours });
  await it.pausing();
  await it.resumed();
  await it.pausing();
  await it.resumed();
  t.equal(await saidUntilEnd(it, vm), undefined, 'it never spoke to the VM');
});

t.test('without a pause announced the guard ends in silence', async (t) => {
  const vm = await connect(t);
  const it = await guard(t, { qmp: vm.ours, limitMs: 1 });
  t.equal(await saidUntilEnd(it, vm), undefined);
});

t.test('the limit counts from the first announcement until all is called off', async (t) => {
  const [vm, agent] = [await connect(t), await connect(t)];
  const it = await guard(t, { qmp: vm.ours, agent: agent.ours, limitMs: 400 });
  const began = performance.now();
  await it.freezing();
  await it.pausing();
  await it.resumed();
  const first = JSON.parse((await agent.peer.line()).slice(1));
  const tookMs = performance.now() - began;
  t.equal(first.execute, 'guest-sync-delimited');
  t.ok(tookMs >= 395 && tookMs < 900, `after ${tookMs} ms`);
  agent.peer.cut();
  await t.rejects(it.thawed(), { code: 'guard-failed', details: { acted: true } });
  t.equal(await saidUntilEnd(it, vm), undefined, 'the pause was over');
});

t.test('after the limit a paused VM goes on, and the engine hears of it', async (t) => {
  const { ours, peer } = await connect(t);
  const it = await guard(t, { qmp: ours, limitMs: 50 });
  await it.pausing();
  t.same(await playVm(peer, 'paused'), ['query-status', 'cont', 'query-status']);
  await t.rejects(it.resumed(), { code: 'guard-failed', details: { acted: true } });
  await t.rejects(it.pausing(), { code: 'guard-failed' }, 'and no further pause is begun');
});

for (const status of [
  'running',
  'inmigrate',
  'postmigrate',
  'io-error',
  'prelaunch',
  'shutdown',
  'guest-panicked',
]) {
  t.test(`a VM that is ${status} is left alone`, async (t) => {
    const vm = await connect(t);
    const it = await guard(t, { qmp: vm.ours, limitMs: 20 });
    await it.pausing();
    t.same(await playVm(vm.peer, status), ['query-status']);
    t.equal(await saidUntilEnd(it, vm), undefined);
  });
}

t.test('letting a guard go while a pause is announced makes the VM go on', async (t) => {
  const { ours, peer } = await connect(t);
  const it = await guard(t, { qmp: ours });
  await it.pausing();
  const ending = it.end();
  t.same(await playVm(peer, 'paused'), ['query-status', 'cont', 'query-status']);
  await ending;
});

t.test('what is not answered is asked again, and what is refused is tried again', async (t) => {
  const { ours, peer } = await connect(t);
  const it = await guard(t, { qmp: ours, limitMs: 20 });
  await it.pausing();
  const error = { class: 'GenericError', desc: 'not now' };
  const first = await peer.request();
  const second = await peer.request();
  t.match([first, second], [{ execute: 'query-status' }, { execute: 'query-status' }]);
  t.not(first.id, second.id);
  peer.send({ error, id: second.id });
  const third = await peer.request();
  peer.send({ return: { status: 'paused' }, id: third.id });
  const cont = await peer.request();
  t.match(cont, { execute: 'cont' });
  peer.send({ error, id: cont.id });
  t.same(await playVm(peer, 'paused'), ['query-status', 'cont', 'query-status']);
});

t.test('what was under way for the engine does not confuse the guard', async (t) => {
  const { ours, peer } = await connect(t);
  const it = await guard(t, { qmp: ours, limitMs: 20 });
  await it.pausing();
  const { id } = await peer.request();
  peer.raw('half a reply", "id": "engine-1"}\r\n');
  peer.raw(`${'x'.repeat(3 * 1024 ** 2)}\r\n`);
  peer.send(null, 7, [], { event: 'STOP', data: {} }, { return: { status: 'running' }, id: 'engine-2' });
  const reply = JSON.stringify({ return: { status: 'paused' }, id });
  peer.raw(reply.slice(0, 9));
  peer.raw(`${reply.slice(9)}\r\n`);
  t.same(await playVm(peer, 'paused'), ['cont', 'query-status']);
});

t.test('a connection that ends ends the guard', async (t) => {
  const { ours, peer } = await connect(t);
  const it = await guard(t, { qmp: ours, limitMs: 20 });
  await it.pausing();
  await peer.request();
  peer.end();
  await t.rejects(it.resumed(), { code: 'guard-failed', details: { acted: true } });
});

t.test('a freeze is thawed until the agent says so, and stale replies say nothing', async (t) => {
  const [vm, agent] = [await connect(t), await connect(t)];
  const it = await guard(t, { qmp: vm.ours, agent: agent.ours, limitMs: 50 });
  await it.freezing();

  const round = async () => {
    const line = await agent.peer.line();
    t.equal(line[0], '\xff', 'half a command that may lie there is forgotten');
    const sync = JSON.parse(line.slice(1));
    t.equal(sync.execute, 'guest-sync-delimited');
    t.match(await agent.peer.request(), { execute: 'guest-fsfreeze-thaw' });
    t.match(await agent.peer.request(), { execute: 'guest-fsfreeze-status' });
    return sync.arguments.id;
  };
  const first = await round();
  agent.peer.send({ return: 'thawed' }); // to a question of the engine, before the freeze
  agent.peer.send({ return: 2 }); // the freeze, late
  const second = await round();
  t.not(first, second);
  agent.peer.raw('\xff');
  agent.peer.send({ return: first }, { return: 2 }, { return: 'frozen' });
  const third = await round();
  agent.peer.raw(Buffer.concat([Buffer.of(0xff), Buffer.from(`{"return": ${third}}\n`)]));
  agent.peer.send({ return: 0 }, { return: 'thawed' });
  await t.rejects(it.thawed(), { code: 'guard-failed', details: { acted: true } });
});

t.test('paused and frozen: it goes on and is thawed, whichever answers first', async (t) => {
  const [vm, agent] = [await connect(t), await connect(t)];
  const it = await guard(t, { qmp: vm.ours, agent: agent.ours, limitMs: 50 });
  await it.freezing();
  await it.pausing();
  // A paused guest reads nothing from its agent's port.
  await agent.peer.line();
  t.same(await playVm(vm.peer, 'paused'), ['query-status', 'cont', 'query-status']);
  await agent.peer.request();
  await agent.peer.request();
  const { arguments: again } = JSON.parse((await agent.peer.line()).slice(1));
  agent.peer.send({ return: again.id }, { return: 1 }, { return: 'thawed' });
  await t.rejects(it.resumed(), { code: 'guard-failed', details: { acted: true } });
});

t.test('the engine reads its connection undisturbed while it is guarded', async (t) => {
  const { ours, peer } = await connect(t);
  let received = '';
  ours.setEncoding('utf8').on('data', (chunk) => {
    received += chunk;
  });
  ours.resume();
  const it = await guard(t, { qmp: ours });
  await it.pausing();
  for (let i = 0; i < 200; i += 1) {
    ours.write(`{"n":${i}}\n`);
    t.match(await peer.request(), { n: i });
    peer.send(i);
  }
  await until(async () => (received.endsWith('199\r\n') ? true : undefined), { what: 'the last reply' });
  t.equal(received.split('\r\n').length, 201);
  await it.resumed();
});

/** The guard's process, found by a variable that it inherits from us. */
async function guardPid(t: Teardown, start: () => Promise<Guard>): Promise<number> {
  const mark = tempDir(t);
  process.env['QMPVAULT_TEST_MARK'] = mark;
  try {
    await start();
    return processesIn(mark)[0]?.pid ?? 0;
  } finally {
    delete process.env['QMPVAULT_TEST_MARK'];
  }
}

t.test('a guard that is gone, or hangs, is noticed before the pause', async (t) => {
  for (const signal of ['SIGKILL', 'SIGSTOP'] as const) {
    const { ours } = await connect(t);
    let it!: Guard;
    const pid = await guardPid(t, async () => {
      it = await guard(t, { qmp: ours });
      return it;
    });
    process.kill(pid, signal);
    await t.rejects(it.pausing(), { code: 'guard-failed' }, signal);
    signalIfThere(pid, 'SIGKILL');
  }
});

t.test('a disarmed guard that hangs is killed when it is to end', async (t) => {
  const { ours, peer } = await connect(t);
  let it!: Guard;
  const pid = await guardPid(t, async () => {
    it = await guard(t, { qmp: ours });
    return it;
  });
  process.kill(pid, 'SIGSTOP');
  const began = performance.now();
  await it.end();
  t.ok(performance.now() - began < 2_500);
  ours.destroy();
  await bounded(peer.closed(), { timeoutMs: 1_000, what: 'the duplicate to be gone' });
});

t.test('a service manager that ends everything does not end an armed guard', async (t) => {
  const { ours, peer } = await connect(t);
  let it!: Guard;
  const pid = await guardPid(t, async () => {
    it = await guard(t, { qmp: ours, limitMs: 200 });
    return it;
  });
  await it.pausing();
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.kill(pid, signal);
  t.same(await playVm(peer, 'paused'), ['query-status', 'cont', 'query-status']);
});

t.test('there is no guarding of a closed connection', async (t) => {
  const { ours } = await connect(t);
  ours.destroy();
  await once(ours, 'close');
  await t.rejects(Guard.start({ qmp: ours }), { code: 'guard-failed' });
});

t.test('a guard costs a few dozen milliseconds', async (t) => {
  const listener = await ScriptedPeer.listen(t);
  const script = `
    import net from 'node:net';
    import { Guard } from '${new URL('../../src/image/guard.ts', import.meta.url)}';
    const qmp = net.connect(${JSON.stringify(listener.path)});
    await new Promise((resolve) => qmp.once('connect', resolve));
    const began = performance.now();
    const guard = await Guard.start({ qmp });
    const startedMs = performance.now() - began;
    await guard.pausing();
    const armedMs = performance.now() - began - startedMs;
    await guard.resumed();
    await guard.end();
    console.log(JSON.stringify({ startedMs, armedMs }));
    qmp.destroy();`;
  const args = ['--input-type=module', '-e', script];
  const took = JSON.parse((await execa(process.execPath, args)).stdout);
  t.comment(took);
  t.ok(took.startedMs < 1_000, 'also on a busy machine');
});
