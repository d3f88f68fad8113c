import type { Command } from 'commander';
import { CONFIG_FILE } from '../../base/places.ts';
import { countOf, fileOf } from '../options.ts';
import type { Shell } from '../shell.ts';

export function addServe(program: Command, shell: Shell): void {
  program
    .command('serve')
    .description('be the daemon: schedule, limit and report, and answer on a JSON-RPC socket')
    .option('--config <file>', 'its configuration; SIGHUP reads it again', fileOf, CONFIG_FILE)
    .option('--grace <seconds>', 'how long running work may take to end after SIGTERM', countOf, 60)
    .action(async ({ config, grace }: { config: string; grace: number }, command: Command) => {
      await shell.serve(command, { configFile: config, graceMs: grace * 1000 });
    });
}
