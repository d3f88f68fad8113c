import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { EXIT } from '../../../src/base/errors.ts';
import { runCli } from '../../helpers/command-line.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

t.test('a right configuration is told to be so; sockets that are not there are warnings', async (t) => {
  const file = join(tempDir(t), 'config.yaml');
  writeFileSync(file, `vaults: { nas: { path: /mnt/nas } }\nvms:\n  web1: { qmp: /nowhere/web1.qmp }\n`);
  const text = await runCli(['config', 'check', '--config', file]);
  t.match(text, {
    code: EXIT.done,
    stdout: /is right: vaults nas; 1 VMs/,
    stderr: /:3:16: vms\.web1\.qmp: .* is not there/,
  });
  const json = await runCli(['config', 'check', '--config', file, '--json']);
  t.match(json, { code: EXIT.done, stderr: '' });
  t.match(JSON.parse(json.stdout), {
    ok: true,
    file,
    vaults: ['nas'],
    vms: ['web1'],
    warnings: [/web1\.qmp/],
  });
});

t.test('a wrong one is told problem by problem', async (t) => {
  const file = join(tempDir(t), 'config.yaml');
  writeFileSync(file, 'vaults: { nas: { path: nas } }\nlimits: { runs: 0 }\n');
  const text = await runCli(['config', 'check', '--config', file]);
  t.match(text, { code: EXIT.usage, stdout: '' });
  t.match(text.stderr.split('\n'), [
    `qmpvault: ${file}:1:24: vaults.nas.path: "nas" is not an absolute path. Allowed: a path that begins with /`,
    `qmpvault: ${file}:2:17: limits.runs: 0 is not a count. Allowed: a whole number from 1 on`,
    /2 problems/,
  ]);
  const json = await runCli(['config', 'check', '--config', file, '--json']);
  t.match(json, { code: EXIT.usage, stderr: '' });
  t.match(JSON.parse(json.stdout), {
    error: { code: 'config-invalid', details: { problems: [{ file, line: 1, column: 24 }, { line: 2 }] } },
  });
});
