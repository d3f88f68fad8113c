/** `scripts/bench`: measures on each QEMU, prints the figures beside what is to be reached. */
import { availableParallelism, loadavg, tmpdir } from 'node:os';
import { resolve } from 'node:path';
import { Command, Option } from 'commander';
import { messageOf } from '../../src/base/errors.ts';
import { QEMU_VERSIONS, type QemuVersion } from '../../vm-fixtures/guestless.ts';
import { measureCatalogue } from './catalogue.ts';
import { measureChains } from './chains.ts';
import { measureCopying } from './copying.ts';
import { type Figure, table, verdictOf } from './figures.ts';
import { measureGuest } from './guest.ts';
import { Laboratory } from './laboratory.ts';
import { type Extent, QUICK, WHOLE } from './plan.ts';
import { measureResync } from './resync.ts';
import { measureService } from './service.ts';
import { measureEmptyFull, measureSizes } from './sizes.ts';

interface Options {
  readonly qemu: QemuVersion[];
  readonly quick?: boolean;
  readonly json?: boolean;
  readonly dir?: string;
  readonly only?: string[];
}

interface Section {
  readonly title: string;
  readonly measure: (lab: Laboratory, extent: Extent) => Promise<Figure[]>;
  /** QEMU has no part in it. */
  readonly once?: boolean;
}

const SECTIONS: readonly Section[] = [
  { title: 'a disk with incompressible data', measure: measureCopying },
  { title: 'a disk that lost its bitmap', measure: measureResync },
  { title: 'an empty disk', measure: measureEmptyFull },
  { title: 'a small and a huge disk', measure: measureSizes },
  { title: "the guest's writes", measure: measureGuest },
  { title: 'the daemon with many VMs', measure: measureService },
  { title: 'long chains', measure: measureChains },
  { title: 'a large vault', measure: measureCatalogue, once: true },
];

const SNAPSHOTTING = QEMU_VERSIONS.filter((version) => version !== '5.2');

const program = new Command('bench')
  .description('measures qmpvault against its targets; all files are in a temporary folder that is removed')
  .addOption(
    new Option('--qemu <version...>', 'the QEMUs to measure on')
      .choices(SNAPSHOTTING)
      .default(['7.2', '11.1']),
  )
  .option('--quick', 'less data and fewer repetitions: under a minute')
  .option(
    '--only <words...>',
    `only the sections with one of these in their titles: ${SECTIONS.map(({ title }) => title).join('; ')}`,
  )
  .option('--json', 'one JSON document on stdout')
  .option('--dir <dir>', 'where the temporary folder is made, which decides on the filesystem', (dir) =>
    resolve(dir),
  )
  .parse();
const options = program.opts<Options>();
if (options.dir !== undefined) process.env['TMPDIR'] = options.dir;

/** The laboratory that is open now: a signal must not leave its VMs behind. */
let open: Laboratory | undefined;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => void open?.[Symbol.asyncDispose]().finally(() => process.exit(130)));
}

const say = (text: string) => void (options.json ? process.stderr : process.stdout).write(`${text}\n`);
const load = () =>
  loadavg()
    .map((value) => value.toFixed(1))
    .join(' ');
const extent = options.quick ? QUICK : WHOLE;
const sections = SECTIONS.filter(
  ({ title }) => options.only === undefined || options.only.some((words) => title.includes(words)),
);
if (sections.length === 0)
  program.error(`no section has ${options.only?.join(' or ')} in its title: --help names them`);
/** What could not be measured: the others still are. */
const failures: string[] = [];
const runs: { qemu: QemuVersion; figures: Figure[] }[] = [];

say(`${availableParallelism()} CPUs, load ${load()}; files in ${tmpdir()}`);
say('source: qcow2 in the page cache, flushed; targets: the same filesystem, durable when the clock stops');
for (const qemu of options.qemu) {
  const figures: Figure[] = [];
  for (const { title, measure, once } of sections) {
    if (once && runs.length > 0) continue;
    say(`QEMU ${qemu}: ${title}`);
    const began = performance.now();
    try {
      await using lab = new Laboratory(qemu);
      open = lab;
      const found = await measure(lab, extent);
      say(table(found));
      figures.push(...found);
    } catch (error) {
      failures.push(`QEMU ${qemu}: ${title}: ${messageOf(error)}`);
      say(`  failed: ${messageOf(error)}`);
    }
    say(`  (${((performance.now() - began) / 1000).toFixed(0)} s, load ${load()})`);
  }
  runs.push({ qemu, figures });
}
const missed = runs.flatMap(({ qemu, figures }) =>
  figures.flatMap((figure) => {
    const verdict = verdictOf(figure);
    return verdict === null || verdict === 'reached' ? [] : [`QEMU ${qemu}: ${figure.name}: ${verdict}`];
  }),
);
if (failures.length > 0) {
  process.exitCode = 1;
  say(`not measured:\n  ${failures.join('\n  ')}`);
}
say(
  missed.length === 0 ? 'all targets of what was measured reached' : `not reached:\n  ${missed.join('\n  ')}`,
);
say(`load ${load()} at the end: other work on this machine makes all figures worse`);
if (options.json) {
  const judged = runs.map(({ qemu, figures }) => ({
    qemu,
    figures: figures.map((figure) => ({ ...figure, verdict: verdictOf(figure) })),
  }));
  process.stdout.write(`${JSON.stringify({ quick: options.quick ?? false, runs: judged }, null, 2)}\n`);
}
