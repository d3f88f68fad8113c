/**
 * A process that takes the lease of a VM folder (or registers as its reader) and does as it is told, a word per
 * line: `assert`, `release`. It answers each with `ok` or the code of the error.
 */
import { createInterface } from 'node:readline';
import { codeOf } from '../../src/base/errors.ts';
import { acquireLease } from '../../src/vault/lease.ts';
import { registerReader } from '../../src/vault/readers.ts';

const [folder = '', role = 'changer'] = process.argv.slice(2);

async function answer(doing: () => Promise<unknown>): Promise<void> {
  const word = await doing().then(
    () => 'ok',
    (error: unknown) => codeOf(error),
  );
  process.stdout.write(`${word}\n`);
}

if (role === 'reader') {
  await answer(() => registerReader(folder, { what: 'another process' }));
} else {
  const taken = acquireLease(folder, { what: 'another process' });
  await answer(() => taken);
  for await (const line of createInterface(process.stdin)) {
    const lease = await taken;
    await answer(() => (line === 'assert' ? lease.assertHeld() : lease.release()));
  }
}
// A registered reader stays until it is killed or its input ends.
process.stdin.resume();
