/** `scripts/soak`: plays seeds until there are enough of them or the time is up, and writes a report. */
import { writeFile } from 'node:fs/promises';
import { Command, InvalidArgumentError, Option } from 'commander';
import fc from 'fast-check';
import { codeOf } from '../../src/base/errors.ts';
import { countLeaks, type Sample } from '../../test/model/leaks.ts';
import { type Sequence, sequences } from '../../test/model/operations.ts';
import { play } from '../../test/model/play.ts';
import { Tally } from '../../test/model/tally.ts';
import { QEMU_VERSIONS, type QemuVersion } from '../../vm-fixtures/guestless.ts';
import { type Failure, reportJson, reportText, type SoakRun, sampleText } from './report.ts';

interface Options {
  readonly qemu: QemuVersion[];
  readonly seeds: number;
  readonly minutes: number;
  readonly from: number;
  readonly seed?: number;
  readonly path?: string;
  readonly operations: number;
  readonly shrinkMinutes: number;
  readonly report?: string;
  readonly leaks?: number;
}

function whole(text: string): number {
  if (/^\d+$/.test(text)) return Number(text);
  throw new InvalidArgumentError('a whole number is needed');
}

const program = new Command('soak')
  .description('plays random operations and faults against a VM, and compares every restore point after each')
  .addOption(
    new Option('--qemu <version...>', 'the QEMUs to play on')
      .choices(QEMU_VERSIONS.filter((version) => version !== '5.2'))
      .default(['7.2', '11.1']),
  )
  .option('--seeds <n>', 'how many sequences on each QEMU', whole, 50)
  .option('--minutes <n>', 'begin none after so long, on each QEMU', whole, 60)
  .option('--from <seed>', 'the first seed', whole, 1)
  .option('--seed <seed>', 'plays this one only', whole)
  .option('--path <path>', 'of that seed, what it was shrunk to')
  .option('--operations <n>', 'in a sequence, at most; half of it on average', whole, 80)
  .option(
    '--shrink-minutes <n>',
    'how long to look for the shortest sequence that fails; 0: not at all',
    whole,
    10,
  )
  .option('--report <name>', 'writes <name>.md and <name>.json')
  .option(
    '--leaks <n>',
    'instead: so many backups of one VM, and what they take of the engine and of QEMU',
    whole,
  )
  .parse();
const options = program.opts<Options>();

const stopping = new AbortController();
const { signal } = stopping;
// Not `once`: a library that sees no listener left but its own ends the process, and what it started stays.
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => stopping.abort());
const say = (text: string) => void process.stderr.write(`${text}\n`);

/** What the first sequence of a seed may take. */
const SEQUENCE_MS = 600_000;

/** @returns null when it went well, or was ended from outside */
async function playSeed(qemu: QemuVersion, seed: number, tally: Tally): Promise<Failure | null> {
  // What shrinking plays is not counted.
  let counted: Tally | null = tally;
  let error: unknown;
  const property = fc.asyncProperty(sequences(options.operations), async (sequence) => {
    const current = counted ?? new Tally();
    counted = null;
    try {
      await play(sequence, { qemu, tally: current, signal, onOperation });
    } catch (cause) {
      if (codeOf(cause) === 'cancelled' && signal.aborted) return;
      error = cause;
      say(`QEMU ${qemu}, seed ${seed}: ${cause instanceof Error ? cause.message : cause}`);
      throw cause;
    }
  });
  const path = options.path === undefined ? {} : { path: options.path };
  const endOnFailure = options.shrinkMinutes === 0;
  const interruptAfterTimeLimit = SEQUENCE_MS + options.shrinkMinutes * 60_000;
  const wishes = { seed, numRuns: 1, endOnFailure, interruptAfterTimeLimit, ...path };
  const found = await fc.check(property, wishes);
  if (!found.failed || signal.aborted) return null;
  const [sequence] = found.counterexample ?? [];
  return { seed, path: found.counterexamplePath ?? '', error, sequence: sequence as Sequence };
}

let operations = 0;
function onOperation(): void {
  operations += 1;
}

async function soak(qemu: QemuVersion): Promise<SoakRun> {
  const tally = new Tally();
  const failures: Failure[] = [];
  const began = performance.now();
  const seeds: number[] = [];
  const minutes = () => (performance.now() - began) / 60_000;
  const { seed: only, from } = options;
  const count = only === undefined ? options.seeds : 1;
  for (let seed = only ?? from; seeds.length < count && minutes() < options.minutes; seed += 1) {
    if (signal.aborted) break;
    const failure = await playSeed(qemu, seed, tally);
    seeds.push(seed);
    if (failure !== null) failures.push(failure);
    say(
      `QEMU ${qemu}, seed ${seed}: ${operations} operations so far, ${tally.comparisons} comparisons, ${failures.length} failures, ${minutes().toFixed(1)} min`,
    );
  }
  return { qemu, seeds, tally, failures, minutes: minutes() };
}

async function countAllLeaks(backups: number): Promise<void> {
  const every = Math.max(1, Math.floor(backups / 20));
  const all: { qemu: QemuVersion; samples: Sample[] }[] = [];
  for (const qemu of options.qemu) {
    say(`QEMU ${qemu}: ${backups} backups of one VM`);
    const samples = await countLeaks({
      qemu,
      backups,
      every,
      signal,
      onSample: (one) => say(sampleText(one)),
    });
    all.push({ qemu, samples });
  }
  if (options.report !== undefined)
    await writeFile(`${options.report}.json`, `${JSON.stringify(all, null, 2)}\n`);
  process.exit(0);
}

if (options.leaks !== undefined) await countAllLeaks(options.leaks);

const runs: SoakRun[] = [];
for (const qemu of options.qemu) runs.push(await soak(qemu));
process.stdout.write(reportText(runs));
if (options.report !== undefined) {
  await writeFile(`${options.report}.md`, reportText(runs));
  await writeFile(`${options.report}.json`, `${JSON.stringify(reportJson(runs), null, 2)}\n`);
}
process.exit(runs.some(({ failures }) => failures.length > 0) ? 1 : 0);
