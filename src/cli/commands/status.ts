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
      const [status, { runs: known }] = await Promise.all([
        daemon.call('daemon.status', {}, { signal }),
        daemon.call('run.list', { limit: 1000 }, { signal }),
      ]);
      const runs = known.filter(({ endedAt }) => endedAt === null);
      await shell.output.result({
        json: { ...status, active: runs },
        text: statusText(status, runs, new Date()),
      });
    });
}
