/**
 * Loaded into the engine's process with `--import`: at its end it tells on descriptor 3 how much memory it held at
 * most. Not `getrusage`: what that tells of a child begins with what its parent held when it forked.
 */
import { readFileSync, writeSync } from 'node:fs';

process.on('exit', () => {
  const kib = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  writeSync(3, kib ?? '');
});
