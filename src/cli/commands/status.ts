import type { Command } from 'commander';
import type { Shell } from '../shell.ts';
import { statusText } from '../status-text.ts';

export function addStatus(program: Command, shell: Shell): void {
  program
    .command('status')
    .description('how the daemon is: its vaults, the newest point of each VM, its runs')
    .action(async (_options: unknown, command: Command) => {
      shell.interruption.doing('asking the daemon');
      await using daemon = await shell.daemon(command);
      const { signal } = shell.interruption;
      const [status, running, queued] = await Promise.all([
        daemon.call('daemon.status', {}, { signal }),
        daemon.call('run.list', { state: 'running' }, { signal }),
        daemon.call('run.list', { state: 'queued' }, { signal }),
      ]);
      const runs = [...running.runs, ...queued.runs];
      await shell.output.result({
        json: { ...status, active: runs },
        text: statusText(status, runs, new Date()),
      });
    });
}
