/** How long jobs may make no progress before the NAS is taken for one that hangs. */
import t from 'tap';
import { MiB } from '../../../src/base/units.ts';
import { patienceMs } from '../../../src/vm/copy-jobs.ts';

t.test('a NAS that does 512 KiB/s for all disks together is waited for', async (t) => {
  t.equal(patienceMs({ jobs: 1 }), 16_000);
  t.equal(patienceMs({ jobs: 2 }), 32_000, 'all requests of all jobs may end at once');
  t.equal(patienceMs({ jobs: 1, workers: 64 }), 128_000);
  t.equal(patienceMs({ jobs: 0 }), 5_000);
});

t.test('who says how long he waits waits so long, but for a limit of his own that is slower', async (t) => {
  t.equal(patienceMs({ jobs: 2, noProgressMs: 500 }), 500);
  t.equal(patienceMs({ jobs: 2, noProgressMs: 500, bandwidth: MiB }), 8_000);
  t.equal(patienceMs({ jobs: 2, noProgressMs: 60_000, bandwidth: MiB }), 60_000);
});
