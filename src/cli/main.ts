/** The process: its log, its streams, its exit code. */
import { pino } from 'pino';
import { systemClock } from '../base/clock.ts';
import type { LogLevel } from '../base/log.ts';
import { withMoreThreads } from '../base/node-flags.ts';
import { main } from './program.ts';

withMoreThreads(process.env);

// Synchronous, so that nothing said is lost at the end.
const openLog = (level: LogLevel) =>
  pino({ name: 'qmpvault', level }, pino.destination({ dest: 2, sync: true }));

const code = await main(process.argv.slice(2), {
  env: process.env,
  isRoot: process.getuid?.() === 0,
  stdout: process.stdout,
  stderr: process.stderr,
  signals: process,
  openLog,
  serve: async (wishes) => {
    const { serve } = await import('../daemon/serve.ts');
    await serve({ ...wishes, log: openLog('info'), clock: systemClock, signals: process });
  },
});
// Not by waiting for the event loop to run empty: a process that hangs in the NAS may have been left behind.
process.exit(code);
