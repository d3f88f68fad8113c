/** The process: its log, its streams, its exit code. */
import { pino } from 'pino';
import { main } from './program.ts';

const code = await main(process.argv.slice(2), {
  env: process.env,
  isRoot: process.getuid?.() === 0,
  stdout: process.stdout,
  stderr: process.stderr,
  signals: process,
  // Synchronous, so that nothing said is lost at the end.
  openLog: (level) => pino({ name: 'qmpvault', level }, pino.destination({ dest: 2, sync: true })),
});
// Not by waiting for the event loop to run empty: a process that hangs in the NAS may have been left behind.
process.exit(code);
