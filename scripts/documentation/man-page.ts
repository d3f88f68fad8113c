/** docs/qmpvault.1, from the commands themselves and the table of errors. */
import type { Argument, Command, Option } from 'commander';
import { EXIT } from '../../src/base/errors.ts';

const EXITS: Readonly<Record<keyof typeof EXIT, string>> = {
  done: 'Done.',
  unexpected: 'Unexpected, or no daemon answers.',
  usage: 'Wrong usage, or a configuration that is not right.',
  missing: 'No such VM, point or vault.',
  vm: 'The VM is unreachable, busy, or in a state that forbids it.',
  run: 'The run failed; the VM and the points are as before.',
  vault: 'The vault is full, locked, away or unreadable.',
  damage: 'Verification found damage.',
  refused: 'Refused: restore points would be lost.',
  cancelled: 'Cancelled, and cleaned up.',
};

const ENVIRONMENT: Readonly<Record<string, string>> = {
  QMPVAULT_SOCKET: "The daemon's socket, as --socket.",
  QMPVAULT_LOG: 'What is logged on stderr: silent, error, warn (default), info or debug.',
  QMPVAULT_QEMU_BIN: 'The folder of qemu-img and qemu-storage-daemon; default: those of PATH.',
  QMPVAULT_STATE_DIR: 'What is known of vaults and runs; default /var/lib/qmpvault.',
  QMPVAULT_RUNTIME_DIR: 'Sockets; default /run/qmpvault.',
  QMPVAULT_SCRATCH_DIR: "The guests' old data while a backup reads; default /var/lib/qmpvault/scratch.",
};

export function manPage(program: Command): string {
  const help = program.createHelp();
  const commands = help.visibleCommands(program).filter((command) => command.name() !== 'help');
  return `${[
    '.\\" Made by scripts/generate-docs from the commands: change it there.',
    '.TH QMPVAULT 1 "" qmpvault "qmpvault manual"',
    '.SH NAME',
    'qmpvault \\- incremental backups of QEMU virtual machines over QMP',
    '.SH SYNOPSIS',
    '.B qmpvault',
    '.I command',
    '[\\fIoption\\fR ...]',
    '.SH DESCRIPTION',
    roff(program.description()),
    '.PP',
    'With',
    '.B \\-\\-vault',
    'a command does its work itself; without, it asks the daemon of this host.',
    '.SH COMMANDS',
    ...commands.flatMap((command) => section(command, [])),
    '.SH OPTIONS OF EVERY COMMAND',
    ...help.visibleOptions(program).flatMap(option),
    '.SH EXIT STATUS',
    ...entries(EXIT).flatMap(([name, code]) => ['.TP', `.B ${code}`, roff(EXITS[name])]),
    '.SH ENVIRONMENT',
    ...Object.entries(ENVIRONMENT).flatMap(([name, text]) => ['.TP', `.B ${name}`, roff(text)]),
    'A user without a root\\(aqs rights has these places below the folders of the XDG base directory specification.',
    '.SH FILES',
    '.TP',
    '.I /etc/qmpvault/config.yaml',
    'The configuration of the daemon.',
    '.TP',
    '.I /run/qmpvault/rpc.sock',
    'Its socket.',
    '.SH SEE ALSO',
    '.BR qemu\\-img (1),',
    '.BR qemu\\-storage\\-daemon (1)',
  ].join('\n')}\n`;
}

function section(command: Command, path: readonly string[]): string[] {
  const help = command.createHelp();
  const names = [...path, command.name()];
  const subcommands = help.visibleCommands(command).filter((sub) => sub.name() !== 'help');
  if (subcommands.length > 0) return subcommands.flatMap((sub) => section(sub, names));
  const placeholders = command.registeredArguments.map(placeholder).join(' ');
  const options = help.visibleOptions(command).filter(({ long }) => long !== '--help');
  return [
    `.SS "qmpvault ${roff(names.join(' '))}${placeholders && ` ${roff(placeholders)}`}"`,
    `${roff(capital(command.description()))}.`,
    ...command.registeredArguments.flatMap((argument) =>
      argument.description === '' ? [] : ['.TP', `.I ${roff(argument.name())}`, roff(argument.description)],
    ),
    ...options.flatMap(option),
  ];
}

function placeholder(argument: Argument): string {
  return argument.required ? argument.name().toUpperCase() : `[${argument.name().toUpperCase()}]`;
}

function option({
  flags,
  description,
  argChoices = [],
  defaultValue,
  defaultValueDescription,
}: Option): string[] {
  const choices = argChoices.length > 0 ? ` (${argChoices.join(', ')})` : '';
  // What is the default on the machine that makes this page says nothing of others.
  const said = typeof defaultValue === 'boolean' ? undefined : (defaultValueDescription ?? defaultValue);
  const byDefault = said === undefined ? '' : `; default: ${said}`;
  return ['.TP', `.B ${roff(flags)}`, roff(`${description}${choices}${byDefault}`)];
}

function entries<K extends string, V>(record: Readonly<Record<K, V>>): [K, V][] {
  return Object.entries(record) as [K, V][];
}

function capital(text: string): string {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}`;
}

/** Nothing in a text is a command to groff, and a hyphen can be copied into a shell. */
function roff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll("'", '\\(aq')
    .replaceAll('"', '\\(dq');
}
