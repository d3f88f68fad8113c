import { readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import {
  createFileDurably,
  renameDurably,
  sweepTemporaries,
  syncFile,
  syncFolder,
  writeFileDurably,
} from '../../../src/vault/durable.ts';
import { ioError } from '../../../src/vault/io-error.ts';
import { smallTmpfs } from '../../helpers/small-tmpfs.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

t.test('a file is replaced as a whole and nothing else is left beside it', async (t) => {
  const dir = tempDir(t);
  const path = join(dir, 'vm.json');
  await writeFileDurably(path, 'the first, longer text');
  await writeFileDurably(path, 'the second');
  t.equal(readFileSync(path, 'utf8'), 'the second');
  t.same(readdirSync(dir), ['vm.json']);
});

t.test('a write that fails leaves the old text and no temporary file', async (t) => {
  const dir = tempDir(t);
  const path = join(dir, 'folder');
  await fs.mkdir(join(path, 'full'), { recursive: true });
  await t.rejects(writeFileDurably(path, 'text'), { code: 'vault-unreadable', details: { path } });
  t.same(readdirSync(dir), ['folder']);
});

t.test('a full NAS is told apart, and keeps what was there', async (t) => {
  const dir = smallTmpfs(t, 64 * 1024);
  const path = join(dir, 'vm.json');
  await writeFileDurably(path, 'small');
  await t.rejects(writeFileDurably(path, 'x'.repeat(128 * 1024)), {
    code: 'vault-full',
    details: { path, errno: 'ENOSPC' },
  });
  t.equal(readFileSync(path, 'utf8'), 'small');
  t.same(readdirSync(dir), ['vm.json']);
});

t.test('an exclusive creation refuses an existing file and leaves it alone', async (t) => {
  const dir = tempDir(t);
  const path = join(dir, 'lease.json');
  t.equal(await createFileDurably(path, 'mine'), true);
  t.equal(await createFileDurably(path, 'yours'), false);
  t.equal(readFileSync(path, 'utf8'), 'mine');
  t.same(readdirSync(dir), ['lease.json']);
});

t.test('an exclusive creation that was replayed by NFS is known as our own', async (t) => {
  const path = join(tempDir(t), 'lease.json');
  writeFileSync(path, 'mine');
  t.equal(await createFileDurably(path, 'mine'), true);
});

t.test('where there are no hard links an exclusive creation does the same', async (t) => {
  const dir = tempDir(t);
  const path = join(dir, 'lease.json');
  const link = async () => {
    throw Object.assign(new Error('no hard links here'), { code: 'EPERM' });
  };
  t.equal(await createFileDurably(path, 'mine', { link }), true);
  t.equal(await createFileDurably(path, 'yours', { link }), false);
  t.equal(readFileSync(path, 'utf8'), 'mine');
  t.same(readdirSync(dir), ['lease.json']);
});

t.test('a temporary file swept away under a creation is written again', async (t) => {
  const path = join(tempDir(t), 'lease.json');
  let swept = 0;
  const link = async (from: fs.FileHandle | string | Buffer | URL, to: string | Buffer | URL) => {
    if (swept++ === 0) await fs.rm(from as string);
    await fs.link(from as string, to);
  };
  t.equal(await createFileDurably(path, 'mine', { link: link as typeof fs.link }), true);
  t.equal(swept, 2);
});

t.test('a folder that is missing is an error, not a reason to try for ever', async (t) => {
  await t.rejects(createFileDurably(join(tempDir(t), 'missing', 'lease.json'), ''), {
    code: 'vault-unreadable',
  });
});

t.test('a rename answered ENOENT after it succeeded is taken as done', async (t) => {
  const dir = tempDir(t);
  writeFileSync(join(dir, 'final'), 'ours');
  const isOurs = async () => readFileSync(join(dir, 'final'), 'utf8') === 'ours';
  await renameDurably(join(dir, 'gone'), join(dir, 'final'), isOurs);
});

t.test('a rename answered ENOENT is an error when the final name is not ours or missing', async (t) => {
  const dir = tempDir(t);
  const missing = () => fs.access(join(dir, 'final')).then(() => true);
  for (const isOurs of [async () => false, missing]) {
    await t.rejects(renameDurably(join(dir, 'gone'), join(dir, 'final'), isOurs), {
      code: 'vault-unreadable',
      details: { path: join(dir, 'final'), errno: 'ENOENT' },
    });
  }
});

t.test('EINVAL from the fsync of a folder is tolerated', async () => {
  await syncFolder('/proc'); // Linux answers EINVAL there
});

t.test('EINVAL from the fsync of a file never is', async (t) => {
  const handle = await fs.open('/proc/self/comm', 'r+');
  t.teardown(() => handle.close());
  await t.rejects(syncFile(handle, 'disk.qcow2'), {
    code: 'sync-failed',
    details: { path: 'disk.qcow2', errno: 'EINVAL' },
  });
});

t.test('only temporary files are swept', async (t) => {
  const dir = tempDir(t);
  writeFileSync(join(dir, '.tmp-0123'), '');
  writeFileSync(join(dir, 'manifest.json'), '');
  symlinkSync('nowhere', join(dir, '.tmp-4567'));
  await sweepTemporaries(dir);
  t.same(readdirSync(dir), ['manifest.json']);
});

t.test('what a failed operation means', async (t) => {
  const codes = {
    ENOSPC: 'vault-full',
    EDQUOT: 'vault-full',
    EIO: 'vault-unreadable',
    ESTALE: 'vault-unreadable',
  };
  for (const [errno, code] of Object.entries(codes)) {
    const error = ioError(Object.assign(new Error(errno), { code: errno }), 'writing', '/nas/x');
    t.match(error, { code, details: { path: '/nas/x', errno } }, errno);
    t.equal(ioError(error, 'reading', '/nas/y'), error, 'an error of ours is not wrapped again');
  }
});
