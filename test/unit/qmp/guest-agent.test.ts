import fc from 'fast-check';
import t from 'tap';
import { GuestAgent, QmpError } from '../../../qmp/index.ts';
import { type PeerConnection, ScriptedPeer } from '../../helpers/scripted-peer.ts';
import type { Teardown } from '../../helpers/temp-dir.ts';

/** Answers the next request, which must be a synchronisation, as qemu-ga does. */
async function synchronise(guest: PeerConnection): Promise<void> {
  const line = await guest.line();
  const { execute, arguments: args } = JSON.parse(line.slice(1));
  if (line[0] !== '\xff' || execute !== 'guest-sync-delimited') throw new TypeError(`no sync: ${line}`);
  guest.raw(Buffer.of(0xff));
  guest.send({ return: args.id });
}

async function connectedAgent(t: Teardown): Promise<{ agent: GuestAgent; guest: PeerConnection }> {
  const peer = await ScriptedPeer.listen(t);
  const connecting = GuestAgent.connect({ path: peer.path });
  const guest = await peer.accept(t);
  await synchronise(guest);
  const agent = await connecting;
  t.teardown(() => agent.close());
  return { agent, guest };
}

async function answer(guest: PeerConnection, command: string, value: unknown): Promise<void> {
  const { execute, id } = await guest.request();
  if (execute !== command || id !== undefined) throw new TypeError(`expected ${command}, got ${execute}`);
  guest.send({ return: value });
}

/** Time enough to send on a busy machine: what was not even sent is another error. */
const LATE_MS = 250;

t.test('status, freeze and thaw', async (t) => {
  const { agent, guest } = await connectedAgent(t);
  const frozen = agent.freeze({ timeoutMs: 1000 });
  await answer(guest, 'guest-fsfreeze-freeze', 2);
  t.equal(await frozen, 2);
  const status = agent.freezeStatus();
  await answer(guest, 'guest-fsfreeze-status', 'frozen');
  t.equal(await status, 'frozen');
  const thawed = agent.thaw();
  await answer(guest, 'guest-fsfreeze-thaw', 2);
  t.equal(await thawed, 2);
});

t.test('connecting is patient with what lies in the channel from before', async (t) => {
  const peer = await ScriptedPeer.listen(t);
  const connecting = GuestAgent.connect({ path: peer.path });
  const guest = await peer.accept(t);
  guest.raw('{"return": 1}\nlogin: \x00\x01\n{"return": {"unfin');
  guest.raw(Buffer.of(0xff));
  guest.send({ return: 12345 });
  guest.send({ error: { class: 'GenericError', desc: 'JSON parse error, stray' } });
  await synchronise(guest);
  const agent = await connecting;
  const ping = agent.execute('guest-ping');
  await answer(guest, 'guest-ping', {});
  t.same(await ping, {});
  await agent.close();
});

t.test('an agent that does not answer is qmp-agent', async (t) => {
  const peer = await ScriptedPeer.listen(t);
  const connecting = GuestAgent.connect({ path: peer.path, timeoutMs: 10 });
  const guest = await peer.accept(t);
  await t.rejects(connecting, { code: 'qmp-agent', details: { path: peer.path } });
  await guest.closed();
  await t.rejects(GuestAgent.connect({ path: `${peer.path}.none` }), { code: 'qmp-agent' });
});

t.test('connecting can be aborted', async (t) => {
  const peer = await ScriptedPeer.listen(t);
  const controller = new AbortController();
  const connecting = GuestAgent.connect({ path: peer.path, signal: controller.signal });
  const guest = await peer.accept(t);
  controller.abort();
  await t.rejects(connecting, { code: 'qmp-aborted' });
  await guest.closed();
  await t.rejects(GuestAgent.connect({ path: peer.path, signal: controller.signal }), {
    code: 'qmp-aborted',
  });
});

t.test('a refusal keeps class and description, and the agent stays in step', async (t) => {
  const { agent, guest } = await connectedAgent(t);
  const refused = agent.freeze();
  await guest.request();
  guest.send({ error: { class: 'GenericError', desc: 'failed to open /mnt' } });
  await t.rejects(refused, {
    code: 'qmp-agent',
    details: { command: 'guest-fsfreeze-freeze', class: 'GenericError', description: 'failed to open /mnt' },
  });
  const ping = agent.execute('guest-ping');
  await answer(guest, 'guest-ping', {});
  t.same(await ping, {});
});

t.test('after a timeout the late reply is never taken for the next one', async (t) => {
  const { agent, guest } = await connectedAgent(t);
  await t.rejects(agent.freeze({ timeoutMs: LATE_MS }), { code: 'qmp-agent' });
  t.equal((await guest.request()).execute, 'guest-fsfreeze-freeze');
  const thawed = agent.thaw();
  guest.send({ return: 7 });
  await synchronise(guest);
  await answer(guest, 'guest-fsfreeze-thaw', 3);
  t.equal(await thawed, 3);
});

t.test('a late reply that comes while nobody waits is dropped', async (t) => {
  const { agent, guest } = await connectedAgent(t);
  const controller = new AbortController();
  const aborted = agent.execute('guest-ping', undefined, { signal: controller.signal });
  await guest.request();
  controller.abort();
  await t.rejects(aborted, { code: 'qmp-aborted' });
  guest.send({ return: 'late' });
  const status = agent.freezeStatus();
  await synchronise(guest);
  await answer(guest, 'guest-fsfreeze-status', 'thawed');
  t.equal(await status, 'thawed');
});

t.test('a synchronisation that got no answer is made again, and its late reply is stale', async (t) => {
  const { agent, guest } = await connectedAgent(t);
  await t.rejects(agent.freeze({ timeoutMs: LATE_MS }), { code: 'qmp-agent' });
  await guest.request();
  await t.rejects(agent.thaw({ timeoutMs: LATE_MS }), { code: 'qmp-agent' });
  const first = synchronise(guest);
  const thawed = agent.thaw();
  await first;
  await synchronise(guest);
  await answer(guest, 'guest-fsfreeze-thaw', 1);
  t.equal(await thawed, 1);
});

t.test('commands go one after another, and one whose time is up is not sent', async (t) => {
  const { agent, guest } = await connectedAgent(t);
  const slow = agent.execute('guest-slow', undefined, { timeoutMs: 30 });
  const hopeless = agent.freeze({ timeoutMs: 10 });
  const thawed = agent.thaw();
  await guest.request();
  await t.rejects(slow, { code: 'qmp-agent' });
  await t.rejects(hopeless, { code: 'qmp-agent' });
  await synchronise(guest);
  await answer(guest, 'guest-fsfreeze-thaw', 0);
  t.equal(await thawed, 0);
});

t.test('replies of the wrong kind are qmp-agent', async (t) => {
  const { agent, guest } = await connectedAgent(t);
  const status = agent.freezeStatus();
  await answer(guest, 'guest-fsfreeze-status', 'maybe');
  await t.rejects(status, { code: 'qmp-agent' });
  const frozen = agent.freeze();
  await answer(guest, 'guest-fsfreeze-freeze', {});
  await t.rejects(frozen, { code: 'qmp-agent' });
});

t.test('an endless line from the guest ends the connection', async (t) => {
  const { agent, guest } = await connectedAgent(t);
  const ping = t.rejects(agent.execute('guest-ping'), { code: 'qmp-agent', cause: { code: 'qmp-protocol' } });
  await guest.request();
  guest.raw(Buffer.alloc(2 * 1024 * 1024, 'x'));
  await ping;
  await t.rejects(agent.execute('guest-ping'), { code: 'qmp-agent' });
});

t.test('a lost connection is qmp-agent; close is idempotent', async (t) => {
  const { agent, guest } = await connectedAgent(t);
  const ping = t.rejects(agent.execute('guest-ping'), { code: 'qmp-agent', cause: { code: 'qmp-closed' } });
  await guest.request();
  guest.end();
  await ping;
  await agent.close();
  await agent[Symbol.asyncDispose]();
  t.equal(agent.socket.destroyed, true);
});

t.test('whatever the guest says, a command returns a number or is qmp-agent', async (t) => {
  const line = fc.oneof(
    fc.string().map((text) => text.replaceAll('\n', ' ')),
    fc.json(),
    fc.jsonValue().map((value) => JSON.stringify({ return: value })),
    fc.jsonValue().map((value) => JSON.stringify({ error: value })),
    fc.constant(JSON.stringify({ error: { class: 'GenericError', desc: 'no' } })),
    fc.constant('\xff'),
  );
  await fc.assert(
    fc.asyncProperty(fc.array(line, { maxLength: 8 }), async (lines) => {
      const { agent, guest } = await connectedAgent(t);
      const frozen = agent.freeze({ timeoutMs: 10_000 }).catch((error: unknown) => error);
      await guest.request();
      guest.raw(Buffer.from(lines.map((text) => `${text}\n`).join(''), 'latin1'));
      // What is no reply is passed over; this one is taken if none of those was.
      guest.send({ return: 1 });
      const outcome = await frozen;
      await agent.close();
      return typeof outcome === 'number' || (outcome instanceof QmpError && outcome.code === 'qmp-agent');
    }),
    { numRuns: 150 },
  );
});
