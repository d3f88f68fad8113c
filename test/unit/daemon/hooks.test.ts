import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import type { Log } from '../../../src/base/log.ts';
import { parseConfig } from '../../../src/config/read-config.ts';
import { Hooks } from '../../../src/daemon/hooks.ts';
import type { Run } from '../../../src/rpc/run.ts';
import { runOf } from '../../helpers/runs.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

function hooksOf(text: string) {
  return parseConfig('c', `vaults: { nas: { path: /x } }\nhooks: { ${text} }`).config.hooks;
}

function ended(state: Run['state'], facts: Partial<Run> = {}): Run {
  const { id, what, vm, vault, cause, createdAt } = runOf();
  const none = { requestId: null, notBefore: null, progress: null, startedAt: null, endedAt: null };
  return {
    id,
    what: what as 'backup',
    vm,
    vault,
    cause,
    createdAt,
    ...none,
    attempts: 1,
    warnings: [],
    state,
    ...facts,
  };
}

function listening() {
  const said: string[] = [];
  const say = (details: object, message: string) => said.push(`${message} ${JSON.stringify(details)}`);
  const log: Log = { debug: say, info: say, warn: say };
  return { said, hooks: new Hooks({ log, pausesMs: [0, 0] }) };
}

const FAILED = ended('failed', {
  error: { code: 'vault-away', message: "the NAS's\ngone; $(id)", details: {} },
});

t.test('a command gets the run as JSON and in its environment; an end has its own hooks', async (t) => {
  const dir = tempDir(t);
  const into = (name: string) => `[ sh, -c, 'cat >${join(dir, name)}; env >>${join(dir, name)}' ]`;
  const { hooks, said } = listening();
  const config = hooksOf(`onFailure: { command: ${into('bad')} }, onSuccess: [{ command: ${into('good')} }]`);
  hooks.fire(config, FAILED);
  hooks.fire(config, ended('succeeded', { point: 'p1' }));
  hooks.fire(config, ended('cancelled'));
  await hooks.idle();
  const [bad, good] = ['bad', 'good'].map((name) => readFileSync(join(dir, name), 'utf8'));
  t.strictSame(JSON.parse(bad?.split('\n')[0] ?? ''), FAILED);
  t.match(bad, "QMPVAULT_MESSAGE=the NAS's\ngone; $(id)\n");
  t.match(bad, `QMPVAULT_VM=web1\n`);
  t.match(bad, `QMPVAULT_ERROR=vault-away\n`);
  t.match(good, `QMPVAULT_POINT=p1\n`);
  t.match(good, `QMPVAULT_STATE=succeeded\n`);
  t.equal(said.length, 2);
});

t.test('a command that fails, hangs or is missing is logged by its place alone', async (t) => {
  const { hooks, said } = listening();
  const commands = ['exit 3; hunter2', 'sleep 1000; hunter2'].map(
    (script) => `{ command: [sh, -c, "${script}"], timeout: 200ms }`,
  );
  hooks.fire(hooksOf(`onFailure: [ ${commands.join(', ')}, { command: [/nowhere/hunter2] } ]`), FAILED);
  await hooks.idle();
  for (const name of ['onFailure.0', 'onFailure.1', 'onFailure.2']) t.match(said.join(), name);
  for (const reason of [/exit code 3/, /did not end within 200 ms/, /could not be started/])
    t.match(said.join(), reason);
  t.notMatch(said.join(), /hunter2/);
});

t.test('a webhook is posted to, again if that may help, and its address is in no log', async (t) => {
  const statuses = [503, 429, 200, 404, 302, 200];
  const posted: { url: string | undefined; body: string }[] = [];
  const server = createServer(async (request, response) => {
    const body = (await request.toArray()).join('');
    posted.push({ url: request.url, body });
    response.writeHead(statuses.shift() ?? 500, { location: '/elsewhere' }).end();
  }).listen(0, '127.0.0.1');
  t.teardown(() => server.close());
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  const config = hooksOf(`onFailure: { webhook: "http://127.0.0.1:${port}/hunter2" }`);
  const { hooks, said } = listening();
  hooks.fire(config, FAILED);
  await hooks.idle();
  t.equal(posted.length, 3);
  t.strictSame(JSON.parse(posted[0]?.body ?? ''), FAILED);
  t.match(said.pop(), /hook called/);
  hooks.fire(config, FAILED);
  await hooks.idle();
  t.equal(posted.length, 4, 'a 404 stays one');
  t.match(said.pop(), /answered 404/);
  hooks.fire(config, FAILED);
  await hooks.idle();
  t.match(said.pop(), /hook called/);
  t.ok(
    posted.every(({ url }) => url === '/hunter2'),
    'it follows nobody elsewhere',
  );
  t.notMatch(said.join(), /hunter2|127\.0\.0\.1/);
});

t.test('a webhook that nobody answers ends at its deadline', async (t) => {
  const server = createServer(() => {}).listen(0, '127.0.0.1');
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  const { hooks, said } = listening();
  hooks.fire(
    hooksOf(
      `onFailure: [{ webhook: "http://127.0.0.1:${port}/hunter2", timeout: 100ms }, { webhook: "http://127.0.0.1:1/hunter2" }]`,
    ),
    FAILED,
  );
  await hooks.idle();
  t.match(said.join(), /TimeoutError/);
  t.match(said.join(), /ECONNREFUSED|TypeError|bad port/);
  t.notMatch(said.join(), /hunter2/);
});
