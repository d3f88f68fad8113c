/** What a shell needs to know to complete a command line, made from the commands themselves. */
import type { Command, Option } from 'commander';

export type ShellName = 'bash' | 'zsh' | 'fish';

export interface CommandWords {
  /** `config check`; empty for the program itself. */
  readonly path: string;
  readonly description: string;
  readonly options: readonly OptionWords[];
  /** Of an argument that is one of a few. */
  readonly choices: readonly string[];
  readonly subcommands: readonly string[];
}

interface OptionWords {
  readonly flag: string;
  readonly description: string;
  readonly takesValue: boolean;
  readonly choices: readonly string[];
}

export function completionScript(shell: ShellName, program: Command): string {
  return { bash, zsh, fish }[shell](commandWords(program));
}

/** The program, its commands and theirs. */
export function commandWords(program: Command): CommandWords[] {
  const global = program.createHelp().visibleOptions(program).map(optionWords);
  const everywhere = global.filter(({ flag }) => flag !== '--version' && flag !== '--help');
  const walk = (command: Command, path: string): CommandWords[] => {
    const help = command.createHelp();
    const visible = help.visibleCommands(command).filter((sub) => sub.name() !== 'help');
    const own = command === program ? global : help.visibleOptions(command).map(optionWords);
    return [
      {
        path,
        description: command.description(),
        options: [...own, ...everywhere.filter(({ flag }) => !own.some((option) => option.flag === flag))],
        choices: command.registeredArguments.flatMap(({ argChoices = [] }) => argChoices),
        subcommands: visible.map((sub) => sub.name()),
      },
      ...visible.flatMap((sub) => walk(sub, `${path} ${sub.name()}`.trim())),
    ];
  };
  return walk(program, '');
}

function optionWords(option: Option): OptionWords {
  const { long, short, description, required, optional, argChoices = [] } = option;
  return { flag: long ?? short ?? '', description, takesValue: required || optional, choices: argChoices };
}

/** Where a value is due and no few are known, it is mostly a path: the shell completes files then. */
function bash(commands: readonly CommandWords[]): string {
  const cases = commands.map(({ path, options, choices, subcommands }) => {
    const words = [...subcommands, ...choices, ...options.map(({ flag }) => flag)];
    return `    '${path}') words='${words.join(' ')}' ;;`;
  });
  const options = uniqueOptions(commands);
  const valued = options.filter(({ takesValue }) => takesValue);
  const few = valued
    .filter(({ choices }) => choices.length > 0)
    .map(({ flag, choices }) => `    ${flag}) words='${choices.join(' ')}' ;;`);
  const any = valued.filter(({ choices }) => choices.length === 0).map(({ flag }) => flag);
  return `# bash completion of qmpvault: source it, or put it into /usr/share/bash-completion/completions/qmpvault
_qmpvault() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD - 1]} path= words= i word
  COMPREPLY=()
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    case " ${commands
      .map(({ path }) => path.replaceAll(' ', '/'))
      .filter(Boolean)
      .join(' ')} " in
    *" \${path:+\${path/ //}/}$word "*) path=\${path:+$path }$word ;;
    esac
  done
  case $prev in
${few.join('\n')}
    ${any.join('|')}) return ;;
  esac
  [ -n "$words" ] || case $path in
${cases.join('\n')}
  esac
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -o default -F _qmpvault qmpvault
`;
}

function zsh(commands: readonly CommandWords[]): string {
  const [root, ...rest] = commands;
  const functions = rest.flatMap(({ path, options, choices, subcommands }) => {
    if (path.includes(' ')) return [];
    // zsh is told of the options of `config check` with those of `config`: here it sees the first word alone.
    const below = rest.filter((command) => command.path.startsWith(`${path} `));
    const specs = uniqueOptions([{ options }, ...below]).map(zshOption);
    const words = [...subcommands, ...choices];
    const argument = words.length > 0 ? `'*:word:(${words.join(' ')})'` : `'*:argument:_files'`;
    return [`    ${path}) _arguments ${[...specs, argument].join(' ')} ;;`];
  });
  const names = rest
    .filter(({ path }) => !path.includes(' '))
    .map(({ path, description }) => `    '${path}:${quoted(description)}'`);
  return `#compdef qmpvault
# zsh completion of qmpvault: put it into a folder of $fpath, as _qmpvault
_qmpvault() {
  local -a commands
  commands=(
${names.join('\n')}
  )
  local state line
  _arguments -C ${(root?.options ?? []).map(zshOption).join(' ')} '1:command:->command' '*::argument:->argument'
  case $state in
  command) _describe command commands ;;
  argument)
    case $words[1] in
${functions.join('\n')}
    esac
    ;;
  esac
}
if [ "$funcstack[1]" = _qmpvault ]; then _qmpvault "$@"; else compdef _qmpvault qmpvault; fi
`;
}

function zshOption({ flag, description, takesValue, choices }: OptionWords): string {
  const text = quoted(description).replaceAll(/[[\]:]/g, '\\$&');
  if (!takesValue) return `'${flag}[${text}]'`;
  return `'${flag}=[${text}]:value:${choices.length > 0 ? `(${choices.join(' ')})` : '_files'}'`;
}

function fish(commands: readonly CommandWords[]): string {
  const lines = commands.flatMap(({ path, options, choices, subcommands }) => {
    const [name] = path.split(' ');
    const when = path === '' ? '' : ` -n '__fish_seen_subcommand_from ${name}'`;
    // Those of the program itself are offered everywhere: only once.
    const own = options.filter(
      ({ flag }) => path === '' || !commands[0]?.options.some((o) => o.flag === flag),
    );
    const words = [...subcommands, ...choices].map((word) => {
      const description = commands.find((command) => command.path === `${path} ${word}`.trim())?.description;
      const condition = path === '' ? " -n '__fish_use_subcommand'" : when;
      return `complete -c qmpvault${condition} -a '${word}'${description ? ` -d '${fishQuoted(description)}'` : ''}`;
    });
    const flags = own.map(({ flag, description, takesValue, choices }) => {
      const value = takesValue ? (choices.length > 0 ? ` -x -a '${choices.join(' ')}'` : ' -r -F') : '';
      return `complete -c qmpvault${when} -l '${flag.replace(/^--/, '')}'${value} -d '${fishQuoted(description)}'`;
    });
    return [...words, ...flags];
  });
  return `# fish completion of qmpvault: put it into ~/.config/fish/completions/qmpvault.fish
${lines.join('\n')}
`;
}

function uniqueOptions(commands: readonly Pick<CommandWords, 'options'>[]): OptionWords[] {
  const all = commands.flatMap(({ options }) => options);
  return all.filter(({ flag }, i) => all.findIndex((option) => option.flag === flag) === i);
}

/** Inside of single quotes of a shell of the Bourne kind. */
function quoted(text: string): string {
  return text.replaceAll("'", "'\\''");
}

function fishQuoted(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll("'", "\\'");
}
