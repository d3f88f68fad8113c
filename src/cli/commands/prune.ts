import type { Command } from 'commander';
import type { VmName } from '../../base/ids.ts';
import { formatBytes } from '../../base/units.ts';
import type { Result } from '../../operations/index.ts';
import { type Keep, RULES } from '../../upkeep/retention.ts';
import { breakLeaseOption, countOf, vaultOption, vmArgument, waitOption } from '../options.ts';
import type { Shell } from '../shell.ts';
import { table } from '../table.ts';

interface PruneOptions {
  readonly keepLast?: number;
  readonly keepHourly?: number;
  readonly keepDaily?: number;
  readonly keepWeekly?: number;
  readonly keepMonthly?: number;
  readonly keepYearly?: number;
  readonly maxChain?: number;
  readonly timeZone?: string;
  readonly dryRun?: boolean;
  readonly wait: number;
  readonly breakLease?: boolean;
}

export function addPrune(program: Command, shell: Shell): void {
  const command = program
    .command('prune')
    .description('delete the restore points that a policy no longer keeps')
    .addArgument(vmArgument())
    .addOption(vaultOption());
  for (const rule of RULES) {
    const what = rule === 'last' ? 'the newest points' : `the newest point of so many ${PERIODS[rule]}`;
    command.option(`--keep-${rule} <n>`, `keep ${what}`, countOf);
  }
  command
    .option('--max-chain <n>', 'merge the oldest points of a longer chain into its full', countOf)
    // Its default is not asked for here, where every command would wait for it (m: up to 0.1 s).
    .option('--time-zone <name>', "of hours, days and weeks (default: this host's)")
    .option('--dry-run', 'only say what would go')
    .addOption(waitOption())
    .addOption(breakLeaseOption())
    .action(async (vm: VmName, options: PruneOptions, command: Command) => {
      await run(shell, command, vm, options);
    });
}

const PERIODS = { hourly: 'hours', daily: 'days', weekly: 'weeks', monthly: 'months', yearly: 'years' };

async function run(shell: Shell, command: Command, vm: VmName, options: PruneOptions): Promise<void> {
  const { maxChain, timeZone, dryRun = false, wait, breakLease } = options;
  const keep = keepOf(options);
  using bars = await shell.output.progressBars();
  const result = await shell.perform(
    command,
    'prune',
    { vm, keep, timeZone, maxChain, dryRun, waitMs: wait * 1000, breakLease },
    { doing: `the prune of ${vm}`, onProgress: (now) => bars?.showWork(now) },
  );
  bars?.stop();
  await shell.output.result({
    json: result,
    text: textOf(result, dryRun),
    warnings: result.warnings,
  });
}

/** null when no rule was given. */
function keepOf(options: PruneOptions): Keep | null {
  const { keepLast, keepHourly, keepDaily, keepWeekly, keepMonthly, keepYearly } = options;
  const counts = [keepLast, keepHourly, keepDaily, keepWeekly, keepMonthly, keepYearly];
  const given = RULES.flatMap((rule, i) => (counts[i] === undefined ? [] : [[rule, counts[i]] as const]));
  return given.length === 0 ? null : Object.fromEntries(given);
}

function textOf({ kept, removed, freedBytes, mergedBytes }: Result<'prune'>, dryRun: boolean): string {
  const rows = [
    ...kept.map(({ id, reasons }) => ['keep', id, reasons.join(' ')]),
    ...removed.map((id) => [dryRun ? 'would go' : 'deleted', id, '']),
  ];
  const bytes = `${formatBytes(freedBytes)} deleted, up to ${formatBytes(mergedBytes)} of it merged into others\n`;
  return table(['WHAT', 'POINT', 'WHY'], rows) + (removed.length > 0 ? bytes : '');
}
