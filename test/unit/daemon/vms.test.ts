import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { silent } from '../../../src/base/log.ts';
import type { Config } from '../../../src/config/config.ts';
import { parseConfig } from '../../../src/config/read-config.ts';
import { operationOf } from '../../../src/daemon/task-of.ts';
import { Vms } from '../../../src/daemon/vms.ts';
import { type Teardown, tempDir } from '../../helpers/temp-dir.ts';

function config(text: string): Config {
  return parseConfig('test.yaml', `vaults: { nas: { path: /mnt/nas } }\n${text}`).config;
}

/** @returns ends it */
async function listenUntil(path: string): Promise<() => Promise<void>> {
  const server = createServer();
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(path, resolve);
  await promise;
  return async () => {
    server.close();
    await once(server, 'close');
  };
}

async function listen(t: Teardown, path: string): Promise<void> {
  t.teardown(await listenUntil(path));
}

t.test('configured before added before found; each socket is one VM', async (t) => {
  const dir = tempDir(t);
  const sockets = ['a', 'b', 'c'].map((name) => join(dir, `${name}.qmp`));
  for (const socket of sockets) await listen(t, socket);
  const identify = async (socket: string) => ({ name: socket.endsWith('b.qmp') ? 'web1' : null, uuid: 'u' });
  const file = config(`vms: { web1: { qmp: ${sockets[0]} } }\ndiscover: [ "${dir}/*.qmp" ]`);
  const vms = await Vms.open(file, { stateDir: dir, log: silent, identify });
  await vms.add('other', { qmp: join(dir, 'none'), fullEvery: 3 });
  await vms.discover();
  t.match(vms.list(), [
    { name: 'c', source: 'discovered', uuid: 'u', vault: 'nas' },
    { name: 'other', source: 'added', fullEvery: 3 },
    { name: 'web1', source: 'configured', qmp: sockets[0] },
  ]);
  t.strictSame([...(await vms.running())], ['c', 'web1']);
  t.throws(() => vms.get('none'), { code: 'vm-unknown' });
  await t.rejects(vms.add('web1', { qmp: '/x' }), { code: 'usage' }, 'what is configured is changed there');
  await t.rejects(vms.add('x', { qpm: '/x' }), { code: 'usage' });
  await t.rejects(vms.add('../x', { qmp: '/x' }), { code: 'name-invalid' });
  await t.rejects(vms.remove('c'), { code: 'usage' });

  const again = await Vms.open(file, { stateDir: dir, log: silent, identify });
  t.match(
    again.list(),
    [{ name: 'c', source: 'discovered' }, { name: 'other', fullEvery: 3 }, { name: 'web1' }],
    'what was added or found is remembered',
  );
  await again.remove('other');
  t.strictSame((await Vms.open(file, { stateDir: dir, log: silent })).list().length, 2);
});

t.test('a VM that was found stays known when it stops, until it is removed or is another one', async (t) => {
  const dir = tempDir(t);
  const socket = join(dir, 'a.qmp');
  const file = config(`discover: [ "${dir}/*.qmp" ]`);
  let asked = 0;
  const identify = async () => ({ name: `web${++asked}`, uuid: 'u' });
  const open = () => Vms.open(file, { stateDir: dir, log: silent, identify });
  const names = (vms: Vms) => vms.list().map(({ name, source }) => `${name} ${source}`);
  const close = await listenUntil(socket);
  const first = await open();
  await first.discover();
  const second = await open();
  t.strictSame(names(second), ['web1 discovered'], 'known before anything is looked for');
  await second.discover();
  t.equal(asked, 1, 'and who still listens is not asked again');
  await t.rejects(second.remove('web1'), { code: 'usage', message: /would be found again/ });
  await close();
  await second.discover();
  t.strictSame(names(second), ['web1 discovered']);
  t.strictSame(names(await open()), ['web1 discovered'], 'also after it stopped');
  t.strictSame(
    names(await Vms.open(config(''), { stateDir: dir, log: silent, identify })),
    [],
    'where nothing is to be discovered it is not known',
  );
  await second.remove('web1');
  t.strictSame(names(await open()), [], 'removed it is forgotten');
  await listen(t, socket);
  const third = await open();
  await third.discover();
  t.strictSame(names(third), ['web2 discovered'], 'who listens there now is asked');
  writeFileSync(join(dir, 'daemon', 'found.json'), '{');
  t.strictSame(names(await open()), [], 'what cannot be read does not keep the daemon from starting');
});

t.test('what a worker does is the wish, with what the configuration says now', async (t) => {
  const dir = tempDir(t);
  const file = config(
    'vms: { web1: { qmp: /run/web1.qmp, agent: /run/web1.qga, exclude: [vdb], quiesce: required, keep: { last: 3 } } }',
  );
  const web1 = (await Vms.open(file, { stateDir: dir, log: silent })).get('web1');
  const record = (what: 'backup' | 'prune' | 'restore', params: object) => ({
    what,
    params: { vm: 'web1', ...params },
    attempts: 1,
  });
  t.match(operationOf(record('backup', { full: true }), web1, '/mnt/nas').params, {
    vault: '/mnt/nas',
    qmp: '/run/web1.qmp',
    agent: '/run/web1.qga',
    exclude: ['vdb'],
    quiesce: 'required',
    full: true,
  });
  const again = operationOf({ ...record('backup', {}), attempts: 2 }, web1, '/mnt/nas').params;
  t.equal(again['resume'], true, 'what died is finished, not made a second time');
  t.match(operationOf(record('prune', { dryRun: true }), web1, '/mnt/nas').params, {
    keep: { last: 3 },
    dryRun: true,
  });
  t.strictSame(operationOf(record('restore', { to: '/x' }), web1, '/mnt/nas'), {
    operation: 'restore',
    params: { vm: 'web1', to: '/x', vault: '/mnt/nas' },
  });
});
