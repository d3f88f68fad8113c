import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import {
  type RunFacts,
  readProgress,
  readRunRecords,
  removeRunRecord,
  runEnded,
  writeRunRecord,
} from '../../../src/backup/run-journal.ts';
import type { RunId } from '../../../src/base/ids.ts';
import { describe } from '../../../src/image/process-id.ts';
import { damagedJson } from '../../helpers/damaged-json.ts';
import { tempDir } from '../../helpers/temp-dir.ts';
import { point } from '../../helpers/vault-files.ts';

const RUN = '5f3a0c11' as RunId;
const FACTS: RunFacts = {
  format: 1,
  run: RUN,
  vm: { name: 'web1', uuid: '', socket: '/run/web1.qmp' },
  vault: { path: '/nas', id: '0' },
  point: point('p1'),
  began: new Date('2026-11-20T08:41:12.123Z'),
  folders: { writer: '/run/w', nbd: '/run/n', scratch: '/scratch' },
  bitmaps: ['b'],
  images: [],
};

t.test('a run of this process lives until it has ended, whatever becomes of its journal', async (t) => {
  const dir = tempDir(t);
  await writeRunRecord(dir, FACTS);
  t.match(await readRunRecords(dir), [{ record: FACTS, living: true }]);
  runEnded(RUN);
  t.match(await readRunRecords(dir), [{ record: FACTS, living: false }], 'now anybody may clean up after it');
  await removeRunRecord(dir, RUN);
  t.same(await readRunRecords(dir), []);
});

t.test('whatever a journal holds, it is read or passed over', async (t) => {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'runs'));
  const good = { ...FACTS, owner: await describe(process.pid) };
  const owners = fc
    .record({ pid: fc.oneof(fc.integer(), fc.double()), startTime: fc.double(), bootId: fc.string() })
    .map((owner) => JSON.stringify({ ...good, owner }));
  await fc.assert(
    fc.asyncProperty(fc.oneof(damagedJson(good), owners), async (text) => {
      writeFileSync(join(dir, 'runs', `${RUN}.json`), text);
      const found = await readRunRecords(dir);
      return found.every(({ record, living }) => typeof record.run === 'string' && living === false);
    }),
    { numRuns: 300 },
  );
});

t.test('whatever is noted of its progress, it is read or passed over', async (t) => {
  const dir = tempDir(t);
  mkdirSync(join(dir, 'runs'));
  const good = { copied: { bytes: [[0, 1]], copyMs: 1 }, synced: true };
  await fc.assert(
    fc.asyncProperty(fc.array(damagedJson(good), { maxLength: 3 }), async (lines) => {
      writeFileSync(join(dir, 'runs', `${RUN}.progress`), `${lines.join('\n')}\n`);
      const { copied, synced = true } = await readProgress(dir, RUN);
      return synced && (copied === undefined || Array.isArray(copied.bytes));
    }),
    { numRuns: 200 },
  );
});
