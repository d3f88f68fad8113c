import { join } from 'node:path';
import { type Test, test } from 'tap';
import { RpcServer } from '../../../src/rpc/server.ts';
import { runCli } from '../../helpers/command-line.ts';
import { HANDLERS, METHODS } from '../../helpers/rpc-fixture.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

async function served(t: Test): Promise<string> {
  const path = join(tempDir(t), 's');
  const server = await RpcServer.listen({ methods: METHODS, handlers: HANDLERS, listen: { path } });
  t.teardown(() => server.close());
  return path;
}

test('a method is called with a JSON object, and its result is printed', async (t) => {
  const path = await served(t);
  for (const json of [[], ['--json']]) {
    const { code, stdout } = await runCli(['rpc', 'echo', '{"vm": "web1"}', '--socket', path, ...json]);
    t.same([code, JSON.parse(stdout)], [0, { vm: 'web1' }]);
  }
  t.match(await runCli(['rpc', 'big', '{"chars": 3}', '--socket', path, '--json']), { stdout: '"xxx"\n' });
  t.match(await runCli(['rpc', 'echo', '--socket', path]), { code: 0, stdout: '{}\n' });
});

test('what is wrong is told with its exit code', async (t) => {
  const path = await served(t);
  t.match(await runCli(['rpc', 'ecko', '--socket', path]), { code: 2, stderr: /no method ecko/ });
  t.match(await runCli(['rpc', 'big', '{}', '--socket', path]), { code: 2, stderr: /chars: is missing/ });
  for (const json of ['{', '[]', 'null', '7']) {
    t.match(await runCli(['rpc', 'echo', json, '--socket', path]), { code: 2, stderr: /no JSON object/ });
  }
  t.match(await runCli(['rpc', 'echo', '--socket', `${path}none`]), { code: 1, stderr: /no daemon on/ });
});
