import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import t from 'tap';
import { until } from '../../../src/base/deadline.ts';
import { standingOf, thisProcess } from '../../../src/vault/owner.ts';

t.test('a process is proved alive or dead only in the same boot and pid namespace', async (t) => {
  const me = thisProcess();
  t.equal(standingOf(me), 'alive');
  t.equal(standingOf({ ...me, startTime: '1' }), 'dead', 'the pid was given to another process');
  t.equal(standingOf({ ...me, pidNamespace: 'pid:[1]', startTime: '1' }), 'elsewhere', 'another container');
  t.equal(standingOf({ ...me, bootId: 'another', host: 'another' }), 'elsewhere');
  t.equal(standingOf({ ...me, bootId: 'another', machineId: 'another' }), 'elsewhere');
  t.equal(
    standingOf({ ...me, bootId: 'another', machineId: null }),
    'elsewhere',
    'no machine id proves nothing',
  );
  t.equal(standingOf({ ...me, machineId: 'm', bootId: 'another' }), 'elsewhere');
  if (me.machineId !== null) t.equal(standingOf({ ...me, bootId: 'another' }), 'rebooted');
});

t.test('a zombie is dead: it holds its pid and nothing else', async (t) => {
  // The shell becomes a program that never waits for its child.
  const parent = spawn('sh', ['-c', 'sleep 0 & echo $!; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.teardown(() => parent.kill('SIGKILL'));
  const pid = Number(String(await once(parent.stdout, 'data')));
  const me = thisProcess();
  // A start time that is not its own would prove it dead anyway; take the one it has.
  const startTime = await until(
    async () => {
      const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]!.split(' ');
      return fields[0] === 'Z' ? fields[19] : undefined;
    },
    { what: 'the child to end' },
  );
  t.equal(standingOf({ ...me, pid, startTime: startTime! }), 'dead');
});
