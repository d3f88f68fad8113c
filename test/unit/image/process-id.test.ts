import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import t from 'tap';
import { until } from '../../../src/base/deadline.ts';
import { describe, isAlive, parseProcessId } from '../../../src/image/process-id.ts';

t.test('a process that runs is alive, and is not once it has ended', async (t) => {
  const child = spawn('sleep', ['60']);
  t.teardown(() => child.kill('SIGKILL'));
  await once(child, 'spawn');
  const id = await describe(child.pid!);
  t.match(id, { pid: child.pid, startTime: Number, bootId: /^[0-9a-f-]{36}$/ });
  t.ok(await isAlive(id!));
  child.kill('SIGKILL');
  await once(child, 'exit');
  t.notOk(await isAlive(id!));
  t.equal(await describe(child.pid!), null);
});

t.test('a stopped process is alive', async (t) => {
  const child = spawn('sleep', ['60']);
  t.teardown(() => child.kill('SIGKILL'));
  await once(child, 'spawn');
  child.kill('SIGSTOP');
  t.ok(await isAlive((await describe(child.pid!))!));
});

t.test('a zombie is not alive: it can do no more harm', async (t) => {
  // The shell becomes a sleep, which never asks how its child ended.
  const parent = spawn('sh', ['-c', 'sleep 60 & echo $!; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  t.teardown(() => parent.kill('SIGKILL'));
  const [pid] = await once(parent.stdout, 'data');
  const become = async () => (await readFile(`/proc/${parent.pid}/comm`, 'utf8')) === 'sleep\n' || undefined;
  await until(become, { what: 'the shell to become a sleep' });
  process.kill(Number(pid), 'SIGKILL');
  await until(async () => (await describe(Number(pid))) === null || undefined, { what: 'its end' });
  t.doesNotThrow(() => process.kill(Number(pid), 0), 'its number is still taken');
});

t.test('another process with the same number, and one of another boot, are not it', async (t) => {
  const id = (await describe(process.pid))!;
  t.ok(await isAlive(id));
  t.notOk(await isAlive({ ...id, startTime: id.startTime - 1 }));
  t.notOk(await isAlive({ ...id, bootId: '00000000-0000-0000-0000-000000000000' }));
});

t.test('a command name with spaces and brackets is not taken for fields', async (t) => {
  const child = spawn('sh', ['-c', 'printf "a) Z 1 (b" >/proc/self/comm; echo; read -r _'], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  t.ok(await isAlive((await describe(child.pid!))!));
});

t.test('only what was written as a process id is read as one', async (t) => {
  const bootId = 'c27bfd3c-7a2c-4c0d-8d4d-4b3a1f0c5f7e';
  t.same(parseProcessId(`12 345 ${bootId}\n`), { pid: 12, startTime: 345, bootId });
  for (const text of ['', `12 345 ${bootId}`, `12 345\n`, `x 345 ${bootId}\n`, `12 345 ${bootId}\nmore`]) {
    t.equal(parseProcessId(text), null, JSON.stringify(text));
  }
});
