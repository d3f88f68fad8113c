/** argv to a command, and what it ended with to an exit code. */
import { Command, CommanderError, Option } from 'commander';
import { EXIT, QmpvaultError } from '../base/errors.ts';
import { Interruption } from '../base/interruption.ts';
import { VERSION } from '../base/version.ts';
import { addBackup } from './commands/backup.ts';
import { addBitmaps } from './commands/bitmaps.ts';
import { addChain } from './commands/chain.ts';
import { addCompletion } from './commands/completion.ts';
import { addConfig } from './commands/config.ts';
import { addDelete } from './commands/delete.ts';
import { addFill } from './commands/fill.ts';
import { addHolds } from './commands/holds.ts';
import { addInit } from './commands/init.ts';
import { addInspect } from './commands/inspect.ts';
import { addList } from './commands/list.ts';
import { addProtect } from './commands/protect.ts';
import { addPrune } from './commands/prune.ts';
import { addRestore } from './commands/restore.ts';
import { addRpc } from './commands/rpc.ts';
import { addServe } from './commands/serve.ts';
import { addServeNbd } from './commands/serve-nbd.ts';
import { addShow } from './commands/show.ts';
import { addStatus } from './commands/status.ts';
import { addVerify } from './commands/verify.ts';
import { addWatch } from './commands/watch.ts';
import { folderOf, socketOf } from './options.ts';
import { Output } from './output.ts';
import { Shell } from './shell.ts';
import type { Surroundings } from './surroundings.ts';

const COMMANDS = [
  addInit,
  addBackup,
  addInspect,
  addBitmaps,
  addList,
  addShow,
  addChain,
  addRestore,
  addFill,
  addHolds,
  addServeNbd,
  addVerify,
  addProtect,
  addDelete,
  addPrune,
  addConfig,
  addServe,
  addStatus,
  addWatch,
  addRpc,
  addCompletion,
];

/** Runs one command. Never throws. @param argv without the names of node and script @returns the exit code */
export async function main(argv: readonly string[], surroundings: Surroundings): Promise<number> {
  // Asked of argv itself, since a call that commander refuses is answered in JSON too.
  const output = new Output(surroundings, argv.includes('--json'));
  using interruption = new Interruption(surroundings.signals, (text) => output.note(text));
  const program = makeProgram(new Shell(surroundings, output, interruption));
  try {
    await program.parseAsync(argv, { from: 'user' });
    return output.exitCode;
  } catch (error) {
    if (!(error instanceof CommanderError)) return output.fail(error);
    return error.exitCode === 0 ? EXIT.done : output.fail(usageError(error, program));
  }
}

/** All commands, as they are documented and completed too. */
export function makeProgram(shell: Shell): Command {
  const { output } = shell;
  const program = new Command('qmpvault')
    .description('Backups of QEMU virtual machines over QMP: one thin qcow2 file per disk and restore point.')
    .version(VERSION, '--version')
    .option('--json', 'write one JSON document to stdout')
    .option('--verbose', 'say on stderr what is done')
    .option('--socket <sock>', 'of the daemon, which is asked where no vault is named', socketOf)
    .addOption(new Option('--qemu-bin <dir>').argParser(folderOf).hideHelp())
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => output.help(text),
      writeErr: (text) => output.helpOnError(text),
      outputError: () => {},
    })
    .exitOverride();
  for (const add of COMMANDS) add(program, shell);
  return program;
}

function usageError({ code, message }: CommanderError, program: Command): QmpvaultError {
  const commands = program.commands.map((command) => command.name());
  const isHelp = code === 'commander.help';
  return new QmpvaultError(
    'usage',
    isHelp ? `name a command: ${commands.join(', ')}` : message.replace(/^error: /, ''),
    { details: isHelp ? { commands } : {} },
  );
}
