/** Whose pause it is, where the replies of a QEMU do not make it plain. */
import t from 'tap';
import { type AtRest, type GuestGuard, takeMoment } from '../../../src/vm/moment.ts';
import { connectedClient, eventOf } from '../../helpers/fake-qemu.ts';
import type { PeerConnection, Request } from '../../helpers/scripted-peer.ts';
import type { Teardown } from '../../helpers/temp-dir.ts';

/** The moment of no disk: what is left of it is the pause. */
async function pause(t: Teardown) {
  const { client, qemu } = await connectedClient(t);
  const told: string[] = [];
  const tell = (word: string) => async () => void told.push(word);
  const guard: GuestGuard = {
    pausing: tell('pausing'),
    resumed: tell('resumed'),
    freezing: tell('freezing'),
    thawed: tell('thawed'),
  };
  const atRest: AtRest = { before: async () => {}, after: async () => {} };
  const moment = takeMoment({ client, guard, agent: null, quiesce: 'off', disks: [], atRest });
  moment.catch(() => {});
  await answer(qemu, 'query-status', { status: 'running' });
  return { moment, qemu, told };
}

async function answer(qemu: PeerConnection, command: string, value: object): Promise<void> {
  const { id } = await next(qemu, command);
  qemu.send({ return: value, id });
}

async function next(qemu: PeerConnection, command: string): Promise<Request> {
  const request = await qemu.request();
  if (request.execute !== command) throw new Error(`expected ${command}, not ${request.execute}`);
  return request;
}

t.test('a guest that we paused goes on, and then the guard is told', async (t) => {
  const { moment, qemu, told } = await pause(t);
  const { id } = await next(qemu, 'stop');
  qemu.send(eventOf('STOP'), { return: {}, id });
  await answer(qemu, 'query-status', { status: 'paused' });
  const cont = await next(qemu, 'cont');
  t.strictSame(told, ['pausing']);
  qemu.send({ return: {}, id: cont.id });
  await moment;
  t.strictSame(told, ['pausing', 'resumed']);
});

t.test('a guest that its operator paused just before us stays paused', async (t) => {
  const { moment, qemu, told } = await pause(t);
  await answer(qemu, 'stop', {});
  await answer(qemu, 'query-status', { status: 'paused' });
  await moment;
  t.strictSame(told, ['pausing', 'resumed'], 'nor does the guard make it go on');
});

t.test('a stop whose reply never came may have happened: the guard stays armed', async (t) => {
  const { moment, qemu, told } = await pause(t);
  await next(qemu, 'stop');
  qemu.cut();
  await t.rejects(moment, { code: 'qmp-closed' });
  t.strictSame(told, ['pausing']);
});

t.test('a stop that was refused did not happen', async (t) => {
  const { moment, qemu, told } = await pause(t);
  const { id } = await next(qemu, 'stop');
  qemu.send({ error: { class: 'GenericError', desc: 'no' }, id });
  await answer(qemu, 'query-status', { status: 'running' });
  await t.rejects(moment, { code: 'qmp-command' });
  t.strictSame(told, ['pausing', 'resumed']);
});
