import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { backupAnswer, failureAnswer, statsAnswer } from '../../../src/cloudstack/answer.ts';
import { domainFiles } from '../../../src/cloudstack/domain-file.ts';
import { parseBackup, parseStats } from '../../helpers/orchestrator.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

const disks = [{ storedBytes: 262_144 }, { storedBytes: 5 }];

t.test(
  'a backup is one number, before which stands the marker of a full in place of an increment',
  async (t) => {
    t.equal(backupAnswer({ kind: 'incremental', disks }, 'incremental'), '262149\n');
    t.equal(backupAnswer({ kind: 'full', disks }, 'full'), '262149\n');
    t.equal(backupAnswer({ kind: 'full', disks }, 'auto'), '262149\n');
    const fallback = backupAnswer({ kind: 'full', disks }, 'incremental');
    t.equal(fallback, 'INCREMENTAL_FALLBACK=true\n262149\n');
    t.strictSame(parseBackup(fallback, false), { sizeBytes: 262_149, fellBack: true });
    t.strictSame(parseBackup('262149\n', true), { sizeBytes: 262_149, fellBack: false });
  },
);

t.test('stats are a word and two numbers of KiB', async (t) => {
  const answer = statsAnswer({ blocks: 1000, bfree: 400, bsize: 4096 });
  t.match(answer, /^\S+ 4000 2400\n$/);
  t.strictSame(parseStats(answer), { totalBytes: 4_096_000, usedBytes: 2_457_600 });
});

t.test('a failure is one line, whatever its text holds', async (t) => {
  t.equal(
    failureAnswer('vault-full', new Error('qemu-img: no space\n  left\n')),
    'vault-full: qemu-img: no space; left\n',
  );
});

t.test(
  "what libvirt knows of a running domain lies beside its images, without the console's password",
  async (t) => {
    const folder = join(tempDir(t), 'qemu');
    mkdirSync(folder);
    const domain = `<domain type='kvm' id='1'>\n  <name>i-2-3-VM</name>\n  <graphics type='vnc' passwd='secret' port='5900'/>\n</domain>`;
    writeFileSync(join(folder, 'i-2-3-VM.xml'), `<domstatus state='running'>\n${domain}\n</domstatus>\n`);
    const files = await domainFiles('i-2-3-VM', [folder]);
    t.equal(files['domain-config.xml'], `${domain.replace(" passwd='secret'", '')}\n`);
    t.strictSame(await domainFiles('i-2-4-VM', [folder]), {}, 'its absence harms nothing');
    t.strictSame(await domainFiles('../qemu/i-2-3-VM', [folder]), {});
  },
);
