/** The command line as a process of its own: what a test kills, stops or interrupts. */
import { execa } from 'execa';
import type { TestSite } from './engine.ts';
import { QMPVAULT } from './programs.ts';

/** `qmpvault ARGS --json`, with the site's folders; a failing exit code is no exception. */
export function cli(
  site: Pick<TestSite, 'engine'>,
  args: readonly string[],
  env: Record<string, string> = {},
  { cwd }: { cwd?: string } = {},
) {
  return execa(process.execPath, [QMPVAULT, ...args, '--json'], {
    reject: false,
    stdin: 'ignore',
    ...(cwd !== undefined && { cwd }),
    env: { ...siteEnv(site), ...env },
  });
}

/** Where the command line finds the folders of a site's engine. */
export function siteEnv({ engine }: Pick<TestSite, 'engine'>): Record<string, string> {
  return {
    QMPVAULT_STATE_DIR: engine.stateDir,
    QMPVAULT_RUNTIME_DIR: engine.runtimeDir,
    QMPVAULT_SCRATCH_DIR: engine.scratchDir,
  };
}
