import { PassThrough, Writable } from 'node:stream';
import t from 'tap';
import { EXIT, QmpvaultError } from '../../../src/base/errors.ts';
import { Output } from '../../../src/cli/output.ts';

function streams(): { stdout: PassThrough; stderr: PassThrough; texts: () => [string, string] } {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()];
  return { stdout, stderr, texts: () => [`${stdout.read() ?? ''}`, `${stderr.read() ?? ''}`] };
}

function failing(errno: string): Writable {
  return new Writable({
    write: (_chunk, _encoding, done) => done(Object.assign(new Error(errno), { code: errno })),
  });
}

const REFUSED = new QmpvaultError('point-exists', 'refused:\n  two\n  lines\n', { details: { point: 'p' } });

t.test('a result is text on stdout, its warnings on stderr', async (t) => {
  const to = streams();
  await new Output(to, false).result({ json: { a: 1 }, text: 'words\n', warnings: ['careful'] });
  t.same(to.texts(), ['words\n', 'qmpvault: warning: careful\n']);
});

t.test('a result as JSON is one document, and nothing is on stderr', async (t) => {
  const to = streams();
  await new Output(to, true).result({ json: { a: 1 }, text: 'words\n', warnings: ['careful'] });
  const [stdout, stderr] = to.texts();
  t.same(JSON.parse(stdout), { a: 1 });
  t.equal(stderr, '');
});

t.test('an error is one line on stderr, or one document on stdout, and an exit code', async (t) => {
  const text = streams();
  t.equal(await new Output(text, false).fail(REFUSED), EXIT.refused);
  t.same(text.texts(), ['', 'qmpvault: refused:; two; lines\n']);

  const json = streams();
  t.equal(await new Output(json, true).fail(REFUSED), EXIT.refused);
  const [stdout, stderr] = json.texts();
  t.same(JSON.parse(stdout), {
    error: { code: 'point-exists', message: REFUSED.message, details: { point: 'p' } },
  });
  t.equal(stderr, '');
});

t.test('a defect shows where it is', async (t) => {
  const to = streams();
  t.equal(await new Output(to, true).fail(new TypeError('x is undefined')), EXIT.unexpected);
  const [stdout, stderr] = to.texts();
  t.match(JSON.parse(stdout), { error: { code: 'internal', message: 'x is undefined', details: {} } });
  t.match(stderr, /output\.test\.ts/);
});

t.test('a reader that went away is no failure, a full disk is', async (t) => {
  const { stderr } = streams();
  const result = { json: {}, text: 'words' };
  await t.resolves(new Output({ stdout: failing('EPIPE'), stderr }, false).result(result));
  await t.rejects(new Output({ stdout: failing('ENOSPC'), stderr }, false).result(result), {
    code: 'ENOSPC',
  });
  t.equal(await new Output({ stdout: failing('ENOSPC'), stderr }, true).fail(REFUSED), EXIT.refused);
  await t.resolves(new Output({ stdout: streams().stdout, stderr: failing('EPIPE') }, false).fail(REFUSED));
});

t.test('only on a terminal there are bars', async (t) => {
  const { stdout, stderr } = streams();
  const terminal = Object.assign(new PassThrough(), { isTTY: true });
  t.ok(await new Output({ stdout, stderr: terminal }, false).progressBars());
  t.notOk(await new Output({ stdout, stderr: terminal }, true).progressBars());
  t.notOk(await new Output({ stdout, stderr }, false).progressBars());
});

t.test('what is said meanwhile stands above the bars', async (t) => {
  const { stdout } = streams();
  const terminal = Object.assign(new PassThrough(), { isTTY: true });
  const output = new Output({ stdout, stderr: terminal }, false);
  const bars = await output.progressBars();
  bars?.show([{ name: 'vda', doneBytes: 1024, totalBytes: 4096 }]);
  output.note('a word');
  bars?.stop();
  output.note('the end');
  const text = `${terminal.read()}`;
  t.match(text, /qmpvault: a word\n[^\n]*vda \[=+-+\] 25%/);
  t.match(text, /\nqmpvault: the end\n$/);
});
