import { Argument, type Command } from 'commander';
import type { ShellName } from '../completion.ts';
import type { Shell } from '../shell.ts';

export function addCompletion(program: Command, { output }: Shell): void {
  program
    .command('completion')
    .description(
      'print what a shell needs to complete these commands: source it, or put it where the shell looks',
    )
    .addArgument(new Argument('<shell>').choices(['bash', 'zsh', 'fish']))
    .action(async (shell: ShellName) => {
      const { completionScript } = await import('../completion.ts');
      const script = completionScript(shell, program);
      await output.result({ json: { shell, script }, text: script });
    });
}
