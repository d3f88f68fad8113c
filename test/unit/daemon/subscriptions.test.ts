import { getEventListeners } from 'node:events';
import t from 'tap';
import { Subscriptions } from '../../../src/daemon/subscriptions.ts';
import type { Run } from '../../../src/rpc/run.ts';
import type { RpcPeer } from '../../../src/rpc/server.ts';

function peer(): RpcPeer & { readonly told: string[]; leave(): void } {
  const gone = new AbortController();
  const told: string[] = [];
  return {
    id: 1,
    gone: gone.signal,
    told,
    leave: () => gone.abort(),
    notify: (name, params) => {
      const { run } = params as { run: Run };
      told.push(`${name} ${run.id} ${run.attempts}`);
    },
  };
}

/** `attempts` stands for how far it is. */
function run(id: string, far: number, more: Partial<Run> = {}): Run {
  return { id, vm: 'vm1', attempts: far, endedAt: null, ...more } as Run;
}

t.test('who subscribed is told of his runs, at once and then not more often than allowed', async (t) => {
  const subscriptions = new Subscriptions();
  t.teardown(() => subscriptions.close());
  const [ofAll, ofOne, ofOther] = [peer(), peer(), peer()];
  subscriptions.add(ofAll, {}, [run('a', 0)]);
  subscriptions.add(ofOne, { runId: 'a' }, []);
  subscriptions.add(ofOther, { vm: 'vm2' }, []);
  t.strictSame(ofAll.told, ['run.progress a 0'], 'what is, is told first');
  for (let far = 1; far <= 9; far += 1) subscriptions.progressed('a', () => run('a', far));
  t.strictSame(ofOne.told, ['run.progress a 1'], 'what came since waits');
  subscriptions.ended(run('a', 10, { endedAt: '2026-01-01T00:00:00Z' }));
  t.strictSame(
    ofOne.told,
    ['run.progress a 1', 'run.finished a 10'],
    'the end does not, and nothing follows it',
  );
  t.strictSame(ofOther.told, []);
});

t.test('a connection that subscribes again and again is listened to once', (t) => {
  const subscriptions = new Subscriptions();
  t.teardown(() => subscriptions.close());
  const restless = peer();
  for (let n = 0; n < 50; n += 1) subscriptions.remove(restless, subscriptions.add(restless, {}, []));
  t.equal(getEventListeners(restless.gone, 'abort').length, 1);
  subscriptions.add(restless, {}, []);
  subscriptions.add(restless, { runId: 'a' }, []);
  restless.leave();
  subscriptions.progressed('a', () => run('a', 1));
  t.strictSame(restless.told, [], 'and when it has gone all of its are');
  t.end();
});

t.test(
  'nothing is told to who has gone or wants no more, nor to one that subscribed twice twice',
  async (t) => {
    const subscriptions = new Subscriptions();
    t.teardown(() => subscriptions.close());
    const [gone, tired, twice] = [peer(), peer(), peer()];
    subscriptions.add(gone, {}, []);
    const id = subscriptions.add(tired, {}, []);
    subscriptions.add(twice, {}, []);
    subscriptions.add(twice, { runId: 'a' }, []);
    t.notOk(subscriptions.remove(gone, id), 'that of somebody else');
    t.ok(subscriptions.remove(tired, id));
    gone.leave();
    subscriptions.progressed('a', () => run('a', 1));
    t.strictSame([gone.told, tired.told, twice.told], [[], [], ['run.progress a 1']]);
  },
);

t.test('one connection has no more than so many', async (t) => {
  const subscriptions = new Subscriptions();
  const client = peer();
  for (let i = 0; i < 100; i += 1) subscriptions.add(client, {}, []);
  t.throws(() => subscriptions.add(client, {}, []), { code: 'daemon-busy' });
});
