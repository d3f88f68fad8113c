import t from 'tap';
import { followJob, isOfJob, type JobStatus } from '../../../qmp/index.ts';
import { connectedClient, eventOf } from '../../helpers/fake-qemu.ts';
import type { PeerConnection } from '../../helpers/scripted-peer.ts';
import type { Teardown } from '../../helpers/temp-dir.ts';

const status = (to: JobStatus, id = 'j') => eventOf('JOB_STATUS_CHANGE', { id, status: to });
const completed = (error?: string) =>
  eventOf('BLOCK_JOB_COMPLETED', { device: 'j', ...(error && { error }) });
const job = (to: JobStatus, more: object = {}) => ({ id: 'j', type: 'backup', status: to, ...more });

/** Follows job `j` of a scripted QEMU; `answer` reads the next request and replies to it. */
async function following(t: Teardown, options: { timeoutMs?: number; signal?: AbortSignal } = {}) {
  const { client, qemu } = await connectedClient(t);
  const listener = client.listen(isOfJob('j'));
  const seen: JobStatus[] = [];
  const start = () =>
    followJob(client, listener, 'j', { ...options, onStatus: (to) => seen.push(to) }).then(
      () => 'done',
      (error) => error,
    );
  return { client, qemu, seen, start };
}

async function answer(qemu: PeerConnection, command: string, value: unknown): Promise<void> {
  const request = await qemu.request();
  if (request.execute !== command) throw new TypeError(`expected ${command}, got ${request.execute}`);
  qemu.send({ return: value, id: request.id });
}

t.test('a job is followed to its end and dismissed', async (t) => {
  const { qemu, seen, start } = await following(t);
  const end = start();
  await answer(qemu, 'query-jobs', [{ id: 'other', status: 'running' }, job('running')]);
  qemu.send(
    status('waiting'),
    status('concluded', 'other'),
    status('pending'),
    completed(),
    status('concluded'),
  );
  await answer(qemu, 'query-jobs', [job('concluded')]);
  const dismissal = await qemu.request();
  t.match(dismissal, { execute: 'job-dismiss', arguments: { id: 'j' } });
  qemu.send({ return: {}, id: dismissal.id });
  t.equal(await end, 'done');
  t.same(seen, ['running', 'waiting', 'pending', 'concluded']);
});

t.test('a job that failed rejects with its error and is dismissed', async (t) => {
  const { qemu, start } = await following(t);
  const end = start();
  await answer(qemu, 'query-jobs', [job('running')]);
  qemu.send(status('aborting'), completed('No space left on device'), status('concluded'));
  await answer(qemu, 'query-jobs', [job('concluded', { error: 'No space left on device' })]);
  await answer(qemu, 'job-dismiss', {});
  t.match(await end, {
    code: 'qmp-job',
    details: { jobId: 'j', error: 'No space left on device' },
  });
});

t.test('a job that had concluded before anybody listened is found', async (t) => {
  const { qemu, start } = await following(t);
  const end = start();
  await answer(qemu, 'query-jobs', [job('concluded')]);
  await answer(qemu, 'query-jobs', [job('concluded')]);
  await answer(qemu, 'job-dismiss', {});
  t.equal(await end, 'done');
});

t.test('a job that concludes in the same chunk as the first answer is not missed', async (t) => {
  const { qemu, start } = await following(t);
  const end = start();
  const { id } = await qemu.request();
  qemu.send({ return: [job('running')], id }, status('concluded'));
  await answer(qemu, 'query-jobs', [job('concluded')]);
  await answer(qemu, 'job-dismiss', {});
  t.equal(await end, 'done');
});

t.test('of a job that is gone the events tell how it ended', async (t) => {
  const histories: [string, object[], unknown][] = [
    ['completed', [status('pending'), completed(), status('concluded'), status('null')], 'done'],
    ['with an error', [status('aborting'), completed('EIO'), status('null')], { details: { error: 'EIO' } }],
    ['cancelled', [eventOf('BLOCK_JOB_CANCELLED', { device: 'j' })], { details: { error: 'cancelled' } }],
    ['no block job, well', [status('pending'), status('concluded'), status('null')], 'done'],
    ['no block job, aborted', [status('aborting'), status('null')], { details: { error: 'aborted' } }],
    ['aborted after pending', [status('pending'), status('aborting')], { details: { error: 'aborted' } }],
    ['nothing told', [status('null')], { code: 'qmp-job' }],
  ];
  for (const [name, history, outcome] of histories) {
    await t.test(`${name}: gone before the first question`, async (t) => {
      const { qemu, start } = await following(t);
      const end = start();
      const { id } = await qemu.request();
      qemu.send(...history, { return: [], id });
      t.match(await end, outcome);
    });
  }
  await t.test('gone while we followed', async (t) => {
    const { qemu, seen, start } = await following(t);
    const end = start();
    await answer(qemu, 'query-jobs', [job('running')]);
    qemu.send(status('pending'), completed(), status('null'));
    t.equal(await end, 'done');
    t.same(seen, ['running', 'pending', 'null']);
  });
  await t.test('gone between concluded and our question', async (t) => {
    const { qemu, start } = await following(t);
    const end = start();
    await answer(qemu, 'query-jobs', [job('running')]);
    qemu.send(status('aborting'), status('concluded'));
    const { id } = await qemu.request();
    qemu.send(completed('EIO'), status('null'), { return: [], id });
    t.match(await end, { code: 'qmp-job', details: { error: 'EIO' } });
  });
});

t.test('a job that somebody else dismisses under our hands still tells its end', async (t) => {
  const { qemu, start } = await following(t);
  const end = start();
  await answer(qemu, 'query-jobs', [job('concluded')]);
  await answer(qemu, 'query-jobs', [job('concluded')]);
  const { id } = await qemu.request();
  qemu.send({ error: { class: 'GenericError', desc: 'Job not found' }, id });
  await answer(qemu, 'query-jobs', []);
  t.equal(await end, 'done');
});

t.test('a dismissal that is refused is an error', async (t) => {
  const { qemu, start } = await following(t);
  const end = start();
  await answer(qemu, 'query-jobs', [job('concluded')]);
  await answer(qemu, 'query-jobs', [job('concluded')]);
  const { id } = await qemu.request();
  qemu.send({ error: { class: 'GenericError', desc: 'no' }, id });
  await answer(qemu, 'query-jobs', [job('concluded')]);
  t.match(await end, { code: 'qmp-command', command: 'job-dismiss' });
});

t.test('time and signal end the following, not the job', async (t) => {
  const late = await following(t, { timeoutMs: 20 });
  const end = late.start();
  await answer(late.qemu, 'query-jobs', [job('running')]);
  t.match(await end, { code: 'qmp-timeout', details: { jobId: 'j' } });
  t.equal(late.client.isOpen, true);

  const controller = new AbortController();
  const { qemu, start } = await following(t, { signal: controller.signal });
  const aborted = start();
  await answer(qemu, 'query-jobs', [job('running')]);
  controller.abort();
  t.match(await aborted, { code: 'qmp-aborted', details: { jobId: 'j' } });
});

t.test('when the connection is lost the outcome is unknown', async (t) => {
  const { qemu, client, start } = await following(t);
  const end = start();
  await answer(qemu, 'query-jobs', [job('running')]);
  qemu.end();
  t.match(await end, { code: 'qmp-outcome-unknown', details: { jobId: 'j' } });
  t.equal(client.isOpen, false);
  t.match(await start(), { code: 'qmp-outcome-unknown' }, 'also when it was lost before');
});
