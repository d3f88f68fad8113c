import { writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import { messageOf, QmpvaultError } from '../../base/errors.ts';
import type { VmName } from '../../base/ids.ts';
import { treeRows, treeSvg, treeText } from '../chain-tree.ts';
import { vaultOption, vmArgument } from '../options.ts';
import type { Shell } from '../shell.ts';

export function addChain(program: Command, shell: Shell): void {
  program
    .command('chain')
    .description('draw which restore point stands on which, with their sizes')
    .addArgument(vmArgument())
    .addOption(vaultOption())
    .option('--svg <file>', 'write the drawing to a file')
    .action(async (vm: VmName, { svg }: { svg?: string }, command: Command) => {
      const found = await shell.perform(command, 'chain', { vm }, { doing: `the chain of ${vm}` });
      const rows = treeRows(found.points);
      if (svg !== undefined) await write(resolve(svg), treeSvg(rows));
      await shell.output.result({
        json: found,
        text: svg === undefined ? treeText(rows) : '',
        warnings: found.warnings,
      });
    });
}

async function write(path: string, text: string): Promise<void> {
  await writeFile(path, text).catch((cause: unknown) => {
    throw new QmpvaultError('usage', `cannot write ${path}: ${messageOf(cause)}`, {
      details: { path },
      cause,
    });
  });
}
