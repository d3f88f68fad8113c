import { once } from 'node:events';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { MiB } from '../../../src/base/units.ts';
import { SerialConsole } from '../../../src/image/serial-console.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

async function pair(t: Test) {
  const console = await SerialConsole.listen(join(tempDir(t), 'serial.sock'));
  const guest = createConnection(console.path);
  t.teardown(() => {
    guest.destroy();
    console.close();
  });
  await once(guest, 'connect');
  return { console, guest };
}

t.test('a line is found, whenever it was said, in pieces and in colour', async (t) => {
  const { console, guest } = await pair(t);
  guest.write('[  \x1b[32mOK\x1b[0m  ] Started lo');
  guest.write('gin\r\r\nweb1 log');
  t.equal(await console.line(/^\[ {2}OK {2}\] Started login$/), '[  OK  ] Started login');
  t.equal(await console.line(/OK/), '[  OK  ] Started login', 'also one that was there before');
  const prompt = console.line(/^web1 login:/);
  guest.write('in: ');
  t.equal(await prompt, 'web1 login: ');
});

t.test('of a guest that talks without end the last is kept', async (t) => {
  const { console, guest } = await pair(t);
  guest.write('x'.repeat(2 * MiB));
  const end = console.line(/the end/);
  guest.write('\nthe end');
  t.equal(await end, 'the end');
  t.equal(console.text.length, MiB);
});
