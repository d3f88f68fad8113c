import t from 'tap';
import { endTool, startMortal, startTool, type ToolEnd } from '../../../src/image/tool-process.ts';

const sh = (script: string, options = {}): Promise<ToolEnd> =>
  startTool(['/bin/sh', '-c', script], options).ended;

t.test('how a tool ended is told with all that it said', async (t) => {
  t.strictSame(await sh('echo out; echo in other words >&2; exit 3'), {
    exitCode: 3,
    signal: null,
    stdout: 'out\n',
    stderr: 'in other words',
    reason: 'in other words',
  });
  t.match(await sh('exit 1'), { exitCode: 1, reason: 'exit code 1' });
  t.match(await sh('kill -9 $$'), { exitCode: null, signal: 'SIGKILL', reason: 'ended by SIGKILL' });
  t.match(await startMortal(['/bin/sh', '-c', 'echo $LC_ALL']).ended, { exitCode: 0, stdout: 'C\n' });
  const heard: string[] = [];
  await sh('echo 1; echo 2', { onStdout: (text: string) => heard.push(text) });
  t.equal(heard.join(''), '1\n2\n');
});

t.test('one that cannot be started is told like one that failed, or refused', async (t) => {
  t.match(await startTool(['/nowhere/program']).ended, { exitCode: null, reason: /ENOENT/ });
  t.match(await startMortal(['/nowhere/program']).ended, { exitCode: 127, reason: /\/nowhere\/program/ });
  t.throws(() => startTool(['/bin/true', 'x'.repeat(4 * 1024 ** 2)]), {
    code: 'image-tool-failed',
    message: /\/bin\/true.*E2BIG/,
  });
});

t.test('one that says too much is killed', async (t) => {
  const end = await sh('exec yes', { outputMaxCharacters: 1_000 });
  t.match(end, { exitCode: null, reason: 'it said more than 1000 characters' });
  t.ok(end.stdout.length <= 1_000);
});

t.test('one that is ended has its end told, also when it is over', async (t) => {
  const tool = startTool(['sleep', '1000']);
  t.match(await endTool(tool), { exitCode: null, signal: 'SIGKILL' });
  t.match(await endTool(tool), { signal: 'SIGKILL' });
});

t.test('one whose output stays open is left behind', async (t) => {
  const tool = startTool(['/bin/sh', '-c', 'sleep 1000 & echo $!; wait']);
  const pid = await new Promise<number>((resolve) => {
    tool.child.stdout?.once('data', (text) => resolve(Number(text)));
  });
  t.teardown(() => process.kill(pid, 'SIGKILL'));
  t.equal(await endTool(tool), null);
});
