import t from 'tap';
import { Pace } from '../../../src/daemon/pace.ts';

const at = (doneBytes: number, phase = 'copying') => ({
  phase,
  disks: [{ name: 'vda', doneBytes, totalBytes: 1000 }],
});

t.test('a rate of late, and the time that is left at it', async (t) => {
  const pace = new Pace();
  t.match(pace.observe(at(0), 0), { bytesPerSecond: null, leftMs: null, disks: [{ phase: 'waiting' }] });
  t.match(pace.observe(at(100), 1000), {
    bytesPerSecond: 100,
    leftMs: 9000,
    disks: [{ bytesPerSecond: 100 }],
  });
  for (let s = 2; s <= 20; s += 1) pace.observe(at(100 + (s - 1) * 20), s * 1000);
  t.match(
    pace.observe(at(500), 21_000),
    { bytesPerSecond: 20, leftMs: 25_000 },
    'the first second is forgotten',
  );
  t.match(pace.observe(at(1000), 22_000), { leftMs: 0, disks: [{ phase: 'done' }] });
});

t.test('another phase begins anew; what goes back has no rate below nothing', async (t) => {
  const pace = new Pace();
  pace.observe(at(900), 0);
  t.match(pace.observe(at(0, 'digesting'), 1000), { phase: 'digesting', bytesPerSecond: null });
  pace.observe(at(500, 'digesting'), 2000);
  t.match(pace.observe(at(0, 'digesting'), 3000), { bytesPerSecond: 0, leftMs: null });
});

t.test('a run without disks has nothing to do and nothing left', async (t) => {
  t.match(new Pace().observe({ phase: 'preparing', disks: [] }, 0), { totalBytes: 0, leftMs: 0, disks: [] });
});
