/** Calls that are wrong, and are told so before anything is done. */
import t from 'tap';
import { EXIT } from '../../../src/base/errors.ts';
import { VERSION } from '../../../src/base/version.ts';
import { runCli } from '../../helpers/command-line.ts';

const BACKUP = 'backup web1 --vault /v --qmp /q';

const WRONG = [
  '',
  'bogus',
  'list',
  'list a b --vault /v',
  'list --vault',
  'list --vault /v --bogus',
  'init',
  'init a b',
  'show web1 --vault /v',
  'backup web1 --qmp /q',
  'backup --vault /v --qmp /q',
  'inspect web1',
  `${BACKUP} --bandwidth fast`,
  `${BACKUP} --bandwidth 0`,
  `${BACKUP} --full-every 0`,
  `${BACKUP} --exclude a/b`,
  `${BACKUP} --point ../x`,
  `${BACKUP} --require-quiesce`,
  'backup ../web1 --vault /v --qmp /q',
  'restore web1 --vault /v',
  'restore web1 --vault /v --to /t --disk vda=/x',
  'restore web1 --vault /v --to /t --format vmdk',
  'restore web1 --vault /v --disk vda',
  'restore web1 --vault /v --disk vda=/x --disk vda=/y',
  'restore web1 p q --vault /v --to /t',
  'restore web1 --vault /v --to /t --in-place',
  'restore web1 --vault /v --in-place --instant',
  'restore web1 --vault /v --to /t --keep-old',
  'restore web1 --vault /v --to /t --instant --format raw',
  'serve-nbd --vault /v',
  'fill web1 --vault /v',
  'holds web1 --vault /v --force',
];

for (const call of WRONG) {
  const argv = call.split(' ').filter((word) => word !== '');

  t.test(`'qmpvault ${call}' is a usage error, in words and in JSON`, async (t) => {
    const text = await runCli(argv);
    t.match(text, { code: EXIT.usage, stdout: '' });
    const lines = text.stderr.split('\n').filter((line) => line.startsWith('qmpvault: '));
    t.equal(lines.length, 1, text.stderr);

    const json = await runCli([...argv, '--json']);
    t.match(json, { code: EXIT.usage, stderr: '' });
    t.match(JSON.parse(json.stdout), {
      error: { code: /^(usage|name-invalid)$/, message: String, details: Object },
    });
  });
}

t.test('asking for help or the version is no error', async (t) => {
  t.same(await runCli(['--version']), { code: EXIT.done, stdout: `${VERSION}\n`, stderr: '' });
  for (const argv of [['--help'], ['restore', '--help'], ['help', 'restore']]) {
    const { code, stdout, stderr } = await runCli(argv);
    t.same({ code, stderr }, { code: EXIT.done, stderr: '' });
    t.match(stdout, /^Usage: qmpvault/);
  }
});

t.test('what is for tests only is not in the help', async (t) => {
  const { stdout } = await runCli(['backup', '--help']);
  t.match(stdout, /--bandwidth/);
  t.notMatch(stdout, /without-snapshot|stall-ms|qemu-bin/);
});
