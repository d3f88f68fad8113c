import { access } from 'node:fs/promises';
import type { Command } from 'commander';
import { codeOf, errnoOf, type QmpvaultError } from '../../base/errors.ts';
import { CONFIG_FILE } from '../../base/places.ts';
import type { Config } from '../../config/config.ts';
import { lineOf, type Problem } from '../../config/problems.ts';
import type { ReadConfig } from '../../config/read-config.ts';
import { fileOf } from '../options.ts';
import type { Shell } from '../shell.ts';

export function addConfig(program: Command, shell: Shell): void {
  program
    .command('config')
    .description('the configuration of the daemon')
    .command('check')
    .description('say all that is wrong in it, and where')
    .option('--config <file>', 'the file', fileOf, CONFIG_FILE)
    .action(async ({ config: file }: { config: string }) => {
      await check(shell, file);
    });
}

async function check({ output }: Shell, file: string): Promise<void> {
  // Only here: no other command pays for a parser of YAML (m: 30 ms of CPU).
  const { readConfig } = await import('../../config/read-config.ts');
  const { config, source } = await readConfig(file).catch((error: unknown) => {
    // One is in the error's own words.
    const problems = problemsIn(error);
    if (problems.length > 1 && !output.isJson) for (const problem of problems) output.note(lineOf(problem));
    throw error;
  });
  const warnings = (await missingSockets({ config, source })).map(lineOf);
  const names = {
    vaults: config.vaults.map(({ name }) => name),
    vms: config.vms.map(({ name }) => name),
  };
  await output.result({
    json: { ok: true, file, ...names, warnings },
    text: `${file} is right: ${wordsOf(config)}\n`,
    warnings,
  });
}

function problemsIn(error: unknown): readonly Problem[] {
  if (codeOf(error) !== 'config-invalid') return [];
  return (error as QmpvaultError).details['problems'] as readonly Problem[];
}

/** A stopped VM has none; a wrong path looks the same. */
async function missingSockets({ config, source }: ReadConfig): Promise<Problem[]> {
  const sockets = config.vms.flatMap(({ name, qmp, agent }) => [
    { path: ['vms', name, 'qmp'], socket: qmp },
    { path: ['vms', name, 'agent'], socket: agent },
  ]);
  const missing = await Promise.all(
    sockets.map(async ({ path, socket }) => {
      if (socket === null || (await isThere(socket))) return null;
      return source.problemAt({ path, what: `${socket} is not there now: does the VM run?`, allowed: '' });
    }),
  );
  return missing.filter((problem) => problem !== null);
}

async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    (error: unknown) => errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'ENOTDIR',
  );
}

function wordsOf({ vaults, vms, discover }: Config): string {
  const found = discover.length > 0 ? `, and those of ${discover.join(', ')}` : '';
  return `vaults ${vaults.map(({ name }) => name).join(', ')}; ${vms.length} VMs${found}`;
}
