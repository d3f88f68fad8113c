/** The command line inside the test's own process, and as a process without any engine around it. */
import { EventEmitter } from 'node:events';
import { PassThrough } from 'node:stream';
import { execa } from 'execa';
import { silent } from '../../src/base/log.ts';
import { main } from '../../src/cli/program.ts';
import { QMPVAULT } from './programs.ts';

export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command in this process. */
export async function runCli(argv: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<CliResult> {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  const code = await main(argv, {
    env,
    isRoot: false,
    stdout,
    stderr,
    signals: new EventEmitter(),
    openLog: () => silent,
    serve: async () => {},
  });
  return { code, stdout: `${stdout.read() ?? ''}`, stderr: `${stderr.read() ?? ''}` };
}

/** Starts the command as its users do; a failing exit code is no exception. */
export function startCli(argv: readonly string[], env: Record<string, string> = {}) {
  return execa(process.execPath, [QMPVAULT, ...argv], {
    reject: false,
    stdin: 'ignore',
    stripFinalNewline: false,
    env,
  });
}
