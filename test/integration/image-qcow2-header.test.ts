import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import { until } from '../../src/base/deadline.ts';
import { MiB } from '../../src/base/units.ts';
import { type Qcow2Header, readQcow2Header } from '../../src/image/qcow2-header.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';

const PLAIN: Qcow2Header = {
  version: 3,
  virtualSizeBytes: 10 * MiB,
  clusterBytes: 65536,
  backingLink: null,
  backingFormat: null,
  dirty: false,
  corrupt: false,
  externalData: false,
  encrypted: false,
};

const longLink = `../${'x'.repeat(190)}/${'y'.repeat(200)}.qcow2`;

interface Case {
  readonly args: readonly string[];
  readonly expected: Partial<Qcow2Header>;
}

const CASES: Readonly<Record<string, Case>> = {
  'a plain image': { args: [], expected: {} },
  'an old image': { args: ['-o', 'compat=0.10'], expected: { version: 2 } },
  'small clusters': { args: ['-o', 'cluster_size=512'], expected: { clusterBytes: 512 } },
  'large clusters': {
    args: ['-o', 'cluster_size=2M', '-b', longLink, '-F', 'qcow2'],
    expected: { clusterBytes: 2 * MiB, backingLink: longLink, backingFormat: 'qcow2' },
  },
  'a backing file': {
    args: ['-b', '../p/vda.qcow2', '-F', 'qcow2'],
    expected: { backingLink: '../p/vda.qcow2', backingFormat: 'qcow2' },
  },
  'an old image with a backing file': {
    args: ['-o', 'compat=0.10', '-b', '/etc/shadow', '-F', 'raw'],
    expected: { version: 2, backingLink: '/etc/shadow', backingFormat: 'raw' },
  },
  'a hostile link': {
    args: ['-b', 'json:{"driver":"file","filename":"/etc/shadow"}', '-F', 'raw'],
    expected: { backingLink: 'json:{"driver":"file","filename":"/etc/shadow"}', backingFormat: 'raw' },
  },
  LUKS: {
    args: [
      '--object',
      'secret,id=s,data=x',
      '-o',
      'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10',
    ],
    expected: { encrypted: true },
  },
  'lazy refcounts': { args: ['-o', 'lazy_refcounts=on'], expected: {} },
  subclusters: { args: ['-o', 'extended_l2=on'], expected: {} },
};

for (const version of qemuVersions(['5.2', '7.2', '11.1'])) {
  const qemuImg = join(qemuBin(version), 'qemu-img');

  for (const [what, { args, expected }] of Object.entries(CASES)) {
    t.test(`qemu-img ${version}, ${what}: the header is read as QEMU wrote it`, async (t) => {
      const path = join(tempDir(t), 'a.qcow2');
      const command = ['create', '-q', '-u', '-f', 'qcow2', ...args, path, '10M'];
      // For LUKS qemu-img measures the CPU, and on a busy one it may fail: «Unable to get accurate CPU usage».
      const made = async () => (await execa(qemuImg, command, { reject: false })).exitCode === 0 || undefined;
      await until(made, { what: 'the image', timeoutMs: 30_000 });
      t.same(await readQcow2Header(path), { ...PLAIN, ...expected });
    });
  }

  t.test(`qemu-img ${version}: an external data file is seen`, async (t) => {
    const dir = tempDir(t);
    const path = join(dir, 'a.qcow2');
    const options = `data_file=${join(dir, 'data')},data_file_raw=on`;
    await execa(qemuImg, ['create', '-q', '-f', 'qcow2', '-o', options, path, '10M']);
    t.same(await readQcow2Header(path), { ...PLAIN, externalData: true });
  });
}

t.test('an image compressed with zstd, which sets a feature bit, is read', async (t) => {
  const path = join(tempDir(t), 'a.qcow2');
  await execa('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'compression_type=zstd', path, '10M']);
  t.same(await readQcow2Header(path), PLAIN);
});

t.test('an image that was killed with lazy refcounts is dirty', async (t) => {
  const path = join(tempDir(t), 'a.qcow2');
  await execa('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', 'lazy_refcounts=on', path, '10M']);
  await execa('qemu-io', ['-f', 'qcow2', '-c', 'write 0 64k', '-c', 'sigraise 9', path], { reject: false });
  t.match(await readQcow2Header(path), { dirty: true });
});

t.test('what is no image is refused, and nothing hangs', async (t) => {
  const dir = tempDir(t);
  const at = (name: string) => join(dir, name);
  await execa('mkfifo', [at('fifo')]);
  mkdirSync(at('folder'));
  writeFileSync(at('text'), '{"format": 1}');
  writeFileSync(at('empty'), '');
  await execa('qemu-img', ['create', '-q', '-f', 'qcow2', at('cut'), '10M']);
  truncateSync(at('cut'), 100);
  for (const path of ['fifo', 'folder', 'text', 'empty', 'cut', 'missing', 'text/below'].map(at)) {
    await t.rejects(readQcow2Header(path), { code: 'image-invalid', details: { path } }, path);
  }
  await t.rejects(readQcow2Header('/dev/zero'), { code: 'image-invalid' });
});

t.test('a file that cannot be read is not called damaged', async (t) => {
  // Reading there fails with EIO, for root too: page 0 of a process is not mapped.
  await t.rejects(readQcow2Header('/proc/self/mem'), { code: 'vault-unreadable', cause: { code: 'EIO' } });
});
