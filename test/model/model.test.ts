/**
 * Random operations and faults against a shadow that knows the truth. A few seeds, always the same; `scripts/soak` plays
 * many more. A failure prints its seed and the path of the shortest sequence that fails:
 * `scripts/soak --qemu Q --seed S --path P` plays that again.
 */
import fc from 'fast-check';
import t from 'tap';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { sequences } from './operations.ts';
import { play } from './play.ts';

const SEEDS = [1, 2, 5];
/** Short, since the whole suite has to stay so. */
const MAX_OPERATIONS = 16;
const SHRINK_MS = 120_000;

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  for (const seed of SEEDS) {
    t.test(`QEMU ${qemu}: whatever happens, every point is what it was (seed ${seed})`, async (t) => {
      const property = fc.asyncProperty(sequences(MAX_OPERATIONS), (sequence) => play(sequence, { qemu }));
      await fc.assert(property, { seed, numRuns: 1, interruptAfterTimeLimit: SHRINK_MS });
      t.pass();
    });
  }
}
