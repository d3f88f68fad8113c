import type { Command } from 'commander';
import { QmpvaultError } from '../../base/errors.ts';
import type { Shell } from '../shell.ts';

export function addRpc(program: Command, shell: Shell): void {
  program
    .command('rpc')
    .description('call one method of the daemon, and print its result: docs/rpc.md has them all')
    .argument('<method>', 'such as point.list')
    .argument('[json]', 'its parameters, as a JSON object', paramsOf)
    .action(async (method: string, params: object | undefined, _: unknown, command: Command) => {
      const { output, interruption } = shell;
      interruption.doing(`the call of ${method}`);
      await using daemon = await shell.daemon(command);
      const result = await daemon.callByName(method, params ?? {}, { signal: interruption.signal });
      await output.result({ json: result as object, text: `${JSON.stringify(result, null, 2)}\n` });
    });
}

/** @throws usage */
function paramsOf(text: string): object {
  try {
    const params: unknown = JSON.parse(text);
    if (typeof params === 'object' && params !== null && !Array.isArray(params)) return params;
  } catch {
    // It is told below.
  }
  throw new QmpvaultError(
    'usage',
    `'${text}' is no JSON object: write the parameters as in '{"vm": "web1"}'`,
  );
}
