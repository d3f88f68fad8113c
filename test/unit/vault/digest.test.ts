import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { sha256File } from '../../../src/vault/digest.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

t.test('the digest is that of all bytes, and progress counts each once', async (t) => {
  const path = join(tempDir(t), 'disk.qcow2');
  const bytes = Buffer.alloc(3 * 1024 * 1024 + 17, 'pattern');
  for (const content of [Buffer.alloc(0), bytes]) {
    writeFileSync(path, content);
    let seen = 0;
    const digest = await sha256File(path, { onBytes: (n) => (seen += n) });
    t.equal(digest, createHash('sha256').update(content).digest('hex'));
    t.equal(seen, content.length);
  }
});

t.test('it can be cancelled between two pieces', async (t) => {
  const path = join(tempDir(t), 'disk.qcow2');
  writeFileSync(path, Buffer.alloc(3 * 1024 * 1024));
  const abort = new AbortController();
  await t.rejects(sha256File(path, { signal: abort.signal, onBytes: () => abort.abort() }), {
    code: 'cancelled',
  });
});

t.test('a file that cannot be read is an error with its path', async (t) => {
  const path = join(tempDir(t), 'missing.qcow2');
  await t.rejects(sha256File(path), { code: 'vault-unreadable', details: { path, errno: 'ENOENT' } });
});
