import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import t from 'tap';
import { processesIn } from '../helpers/temp-dir.ts';

const DEMO = fileURLToPath(new URL('../../scripts/demonstration/main.ts', import.meta.url));
const FOLDER = /All of it happens in (\S+),/;

function demo() {
  return execa(process.execPath, [DEMO], { reject: false, stdin: 'ignore', all: true });
}

t.test('the demonstration proves what it shows and leaves nothing behind', async (t) => {
  const { exitCode, stdout, all } = await demo();
  t.equal(exitCode, 0, { all });
  const dir = FOLDER.exec(stdout)?.[1] ?? '';
  t.notOk(existsSync(dir));
  t.strictSame(processesIn(dir), []);
});

t.test('interrupted in a backup, it leaves nothing behind', async (t) => {
  const running = demo();
  t.teardown(() => running.kill('SIGTERM'));
  let said = '';
  for await (const line of running) {
    said += `${line}\n`;
    if (`${line}`.includes('qmpvault backup')) running.kill('SIGINT');
  }
  const dir = FOLDER.exec(said)?.[1] ?? '';
  t.equal((await running).exitCode, 130);
  t.notOk(existsSync(dir));
  t.strictSame(processesIn(dir), []);
});
