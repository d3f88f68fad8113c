/** What a soak found, for people and for programs. */
import { messageOf } from '../../src/base/errors.ts';
import { MiB } from '../../src/base/units.ts';
import type { Sample } from '../../test/model/leaks.ts';
import { isFault, KIND_NAMES, type Sequence } from '../../test/model/operations.ts';
import { Tally } from '../../test/model/tally.ts';

export interface Failure {
  readonly seed: number;
  /** Of the shortest sequence that was found to fail. */
  readonly path: string;
  readonly error: unknown;
  readonly sequence: Sequence;
}

export interface SoakRun {
  readonly qemu: string;
  readonly seeds: readonly number[];
  readonly tally: Tally;
  readonly failures: readonly Failure[];
  readonly minutes: number;
}

export function reportJson(runs: readonly SoakRun[]): object {
  return runs.map(({ qemu, seeds, tally, failures, minutes }) => ({
    qemu,
    seeds,
    minutes: Math.round(minutes),
    comparisons: tally.comparisons,
    operations: countsOf(tally, false),
    faults: countsOf(tally, true),
    steps: Object.fromEntries(tally.steps),
    ends: Object.fromEntries(tally.ends),
    points: Object.fromEntries(tally.points),
    passed: Object.fromEntries(tally.passed),
    failures: failures.map(({ seed, path, error, sequence }) => ({
      seed,
      path,
      error: messageOf(error),
      sequence,
    })),
  }));
}

export function reportText(runs: readonly SoakRun[]): string {
  const totals = runs.map(({ qemu, seeds, tally, failures, minutes }) => {
    const done = Tally.sum(tally.operations) + Tally.sum(tally.faults);
    return `- QEMU ${qemu}: ${seeds.length} seeds, ${done} operations, ${Tally.sum(tally.faults)} of them faults that fired, ${tally.comparisons} comparisons, ${failures.length} mismatches; ${Math.round(minutes)} minutes`;
  });
  const sections = [
    table('Operations', runs, (tally) => countsOf(tally, false)),
    table('Faults that fired', runs, (tally) => countsOf(tally, true)),
    table('Steps at which the engine was struck', runs, ({ steps }) => Object.fromEntries(steps)),
    table('How runs that were struck ended', runs, ({ ends }) => Object.fromEntries(ends)),
    table('Restore points', runs, ({ points }) => Object.fromEntries(points)),
  ];
  const failures = runs.flatMap(({ qemu, failures }) =>
    failures.map(
      ({ seed, path, error, sequence }) =>
        `### QEMU ${qemu}, seed ${seed}\n\n\`scripts/soak --qemu ${qemu} --seed ${seed} --path ${path}\`\n\n    ${messageOf(error).replaceAll('\n', '\n    ')}\n\n\`\`\`\n${JSON.stringify(sequence)}\n\`\`\`\n`,
    ),
  );
  return `${[totals.join('\n'), ...sections, ...failures].join('\n\n')}\n`;
}

function countsOf(tally: Tally, faults: boolean): Record<string, number> {
  const counts = faults ? tally.faults : tally.operations;
  return Object.fromEntries(
    KIND_NAMES.filter((kind) => isFault(kind) === faults).map((kind) => [kind, counts.get(kind) ?? 0]),
  );
}

function table(
  title: string,
  runs: readonly SoakRun[],
  countsOf: (tally: Tally) => Record<string, number>,
): string {
  const columns = runs.map(({ tally }) => countsOf(tally));
  const names = [...new Set(columns.flatMap((counts) => Object.keys(counts)))].toSorted();
  const rows = names.map((name) => `| ${name} | ${columns.map((counts) => counts[name] ?? 0).join(' | ')} |`);
  const head = `| ${title} | ${runs.map(({ qemu }) => `QEMU ${qemu}`).join(' | ')} |`;
  return [head, `|---|${runs.map(() => '---:|').join('')}`, ...rows].join('\n');
}

export function sampleText({ backups, engine, qemu }: Sample): string {
  const mib = (bytes: number) => (bytes / MiB).toFixed(1);
  return `${backups} backups: engine ${engine.descriptors} descriptors, ${engine.resources} resources, heap ${mib(engine.heapBytes)} MiB, resident ${mib(engine.residentBytes)} MiB; QEMU ${qemu.descriptors} descriptors, ${qemu.threads} threads, resident ${mib(qemu.residentBytes)} MiB`;
}
