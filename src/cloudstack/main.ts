/** The process behind scripts/nasbackup: its log, its streams, its exit code. */
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pino } from 'pino';
import { type Log, silent } from '../base/log.ts';
import { withMoreThreads } from '../base/node-flags.ts';
import { placesFrom } from '../base/places.ts';
import { main } from './program.ts';

const LOG_FILE = '/var/log/qmpvault/nasbackup.log';
const isRoot = process.getuid?.() === 0;

/** A host whose disk is full of logs is backed up all the same. */
function openLog(): Log {
  const inState = join(placesFrom(process.env, isRoot).stateDir, 'nasbackup.log');
  for (const file of [process.env['QMPVAULT_NAS_LOG'] || LOG_FILE, inState]) {
    try {
      mkdirSync(dirname(file), { recursive: true, mode: 0o750 });
      // Synchronous, so that nothing said is lost at the end.
      const destination = pino.destination({ dest: file, sync: true, mode: 0o640 });
      destination.on('error', () => {});
      const level = process.env['QMPVAULT_LOG'] || 'info';
      return pino({ name: 'nasbackup', level, timestamp: pino.stdTimeFunctions.isoTime }, destination);
    } catch {
      // The next one, or none.
    }
  }
  return silent;
}

withMoreThreads(process.env);
// A caller that has waited long enough cuts its pipes and goes; an agent's terminal may hang up. The run goes on.
process.on('SIGHUP', () => {});
for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
// What we stand in may have to be unmounted meanwhile.
process.chdir('/');

const code = await main(process.argv.slice(2), {
  env: process.env,
  isRoot,
  stdout: process.stdout,
  signals: process,
  log: openLog(),
});
// Not by waiting for the event loop to run empty: a process that hangs in the NAS may have been left behind.
process.exit(code);
