import { EventEmitter } from 'node:events';
import t from 'tap';
import { codeOf } from '../../../src/base/errors.ts';
import { Interruption } from '../../../src/base/interruption.ts';

for (const name of ['SIGINT', 'SIGTERM']) {
  t.test(`${name} aborts, and a second one only says what is being waited for`, async (t) => {
    const source = new EventEmitter();
    const said: string[] = [];
    {
      using interruption = new Interruption(source, (text) => said.push(text));
      const { signal } = interruption;
      let aborts = 0;
      signal.addEventListener('abort', () => {
        aborts += 1;
      });
      interruption.doing('the backup of web1 (copying)');
      t.notOk(signal.aborted);
      source.emit(name, name);
      t.ok(signal.aborted);
      t.equal(codeOf(signal.reason), 'cancelled');
      source.emit(name, name);
      source.emit('SIGINT', 'SIGINT');
      t.equal(aborts, 1);
      t.match(said, [
        `${name}: ending the backup of web1 (copying)`,
        /^still .* the backup of web1/,
        /^still .* the backup of web1/,
      ]);
    }
    t.same(source.eventNames(), [], 'nothing is listened to any more');
  });
}
