import t from 'tap';
import { locksHold } from '../../../src/restore/image-locks.ts';

/** Of /dev/vda1, which is 254:1. */
const IMAGE = { dev: 0xfe01, ino: 4711 };

t.test("the lock on QEMU's byte for writing, and no other, tells that a QEMU writes", async (t) => {
  const table: [line: string, isWritten: boolean][] = [
    ['1: OFDLCK ADVISORY  READ -1 fe:01:4711 100 101', true],
    ['12: OFDLCK ADVISORY  READ -1 fe:01:4711 101 101', true],
    ['1: OFDLCK ADVISORY  WRITE -1 fe:01:4711 0 EOF', true],
    ['1: OFDLCK ADVISORY  READ -1 fe:01:4711 100 100', false],
    ['1: OFDLCK ADVISORY  READ -1 fe:01:4711 201 201', false],
    ['1: OFDLCK ADVISORY  READ -1 fe:01:4712 100 101', false],
    ['1: OFDLCK ADVISORY  READ -1 fe:02:4711 100 101', false],
    ['1: POSIX  ADVISORY  READ 77 fe:01:4711 100 101', false],
    ['1: FLOCK  ADVISORY  WRITE 77 fe:01:4711 0 EOF', false],
    ['1: -> OFDLCK ADVISORY  READ -1 fe:01:4711 100 101', false],
    ['', false],
  ];
  for (const [line, isWritten] of table) t.equal(locksHold(`${line}\n`, IMAGE), isWritten, line);
  t.ok(locksHold(table.map(([line]) => line).join('\n'), IMAGE), 'among others');
});

t.test('large device numbers are those of stat(2)', async (t) => {
  t.ok(locksHold('1: OFDLCK ADVISORY READ -1 103:12345:9 101 101', { dev: 0x12310345, ino: 9 }));
});
