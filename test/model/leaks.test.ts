/** `scripts/soak --leaks 500` does the same at length. */
import t from 'tap';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { countLeaks } from './leaks.ts';

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: backups leave nothing behind in the engine or in QEMU`, async (t) => {
    const samples = await countLeaks({ qemu, backups: 12, every: 4 });
    t.equal(samples.length, 3);
  });
}
