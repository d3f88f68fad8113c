import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import t from 'tap';
import { until } from '../../../src/base/deadline.ts';
import { codeOf } from '../../../src/base/errors.ts';
import { type ClaimRecord, removeClaim, seeClaim } from '../../../src/vault/claim.ts';
import { acquireLease, isJournalOpen } from '../../../src/vault/lease.ts';
import { thisProcess } from '../../../src/vault/owner.ts';
import { type Teardown, tempDir } from '../../helpers/temp-dir.ts';

const HOLDER = join(import.meta.dirname, '../../helpers/lease-holder.ts');
const WHAT = { what: 'a test' };

/** A VM folder with the path of its lease. */
function vmFolder(t: Teardown): { folder: string; path: string } {
  const folder = join(tempDir(t), 'web1');
  mkdirSync(folder);
  return { folder, path: join(folder, 'lease.json') };
}

/** As if the last sign of life had been given so long ago. */
function age(path: string, ms: number): void {
  const at = new Date(statSync(path).mtimeMs - ms);
  utimesSync(path, at, at);
}

/** A lease as some other process would have written it. */
function plant(path: string, owner: Partial<ClaimRecord['owner']>): void {
  const record = {
    format: 1,
    token: 'planted',
    owner: { ...thisProcess(), ...owner },
    what: 'backup run 1',
    since: '2026-11-20T08:41:12.123Z',
  };
  writeFileSync(path, JSON.stringify(record));
}

const ELSEWHERE = { host: 'other', machineId: 'other', bootId: 'other' };

class Holder {
  readonly child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(t: Teardown, folder: string) {
    this.child = spawn(process.execPath, [HOLDER, folder], { stdio: ['pipe', 'pipe', 'inherit'] });
    t.teardown(() => this.child.kill('SIGKILL'));
    this.#lines = createInterface(this.child.stdout!)[Symbol.asyncIterator]();
  }

  async answer(): Promise<string | undefined> {
    return (await this.#lines.next()).value;
  }

  ask(word: string): Promise<string | undefined> {
    this.child.stdin!.write(`${word}\n`);
    return this.answer();
  }
}

t.test('a second changer is refused and told by whom', async (t) => {
  const { folder, path } = vmFolder(t);
  await using lease = await acquireLease(folder, { what: 'backup run 5f3a0c11' });
  await t.rejects(acquireLease(folder, WHAT), {
    code: 'vault-locked',
    details: { path, what: 'backup run 5f3a0c11', pid: process.pid, host: thisProcess().host },
  });
  await lease.assertHeld();
});

t.test('a released lease is free, and releasing again does nothing', async (t) => {
  const { folder } = vmFolder(t);
  const first = await acquireLease(folder, WHAT);
  await first.release();
  await using second = await acquireLease(folder, WHAT);
  await first.release();
  await second.assertHeld();
  await t.rejects(first.assertHeld(), { code: 'lease-lost' });
  t.same(readdirSync(folder), ['lease.json']);
});

t.test('who waits gets the lease when it is released', async (t) => {
  const { folder } = vmFolder(t);
  const first = await acquireLease(folder, WHAT);
  const waiting = acquireLease(folder, { ...WHAT, waitMs: 10_000 });
  await t.rejects(acquireLease(folder, WHAT), { code: 'vault-locked' }, 'by now the other one waits');
  await first.release();
  await using second = await waiting;
  await second.assertHeld();
});

t.test('waiting for the lease can be cancelled', async (t) => {
  const { folder } = vmFolder(t);
  await using _ = await acquireLease(folder, WHAT);
  const abort = new AbortController();
  const waiting = acquireLease(folder, { ...WHAT, waitMs: 10_000, signal: abort.signal });
  abort.abort();
  await t.rejects(waiting, { code: 'cancelled' });
});

t.test(
  'of many contenders exactly one gets the lease, also when a dead one has to be removed first',
  async (t) => {
    const { folder, path } = vmFolder(t);
    plant(path, { pid: 1, startTime: 'long ago' });
    const results = await Promise.allSettled(Array.from({ length: 20 }, () => acquireLease(folder, WHAT)));
    const leases = results.filter((result) => result.status === 'fulfilled').map((result) => result.value);
    t.equal(leases.length, 1);
    t.equal(leases[0]!.takenFrom?.what, 'backup run 1');
    for (const result of results)
      if (result.status === 'rejected') t.equal(codeOf(result.reason), 'vault-locked');
    await leases[0]!.assertHeld();
    t.same(readdirSync(folder), ['lease.json']);
    await leases[0]!.release();
  },
);

t.test(
  'two processes contend: one is refused while the other lives, and takes over when it is dead',
  async (t) => {
    const { folder } = vmFolder(t);
    const holder = new Holder(t, folder);
    t.equal(await holder.answer(), 'ok');
    await t.rejects(acquireLease(folder, WHAT), { code: 'vault-locked', details: { pid: holder.child.pid } });
    // Also with a journal open: the owner is proved dead, so it cannot come back.
    writeFileSync(join(folder, 'journal.json'), '{}');
    holder.child.kill('SIGKILL');
    await once(holder.child, 'exit');
    await using lease = await acquireLease(folder, WHAT);
    t.equal(lease.takenFrom?.owner.pid, holder.child.pid);
  },
);

t.test('an owner that hung past its term and revives is refused', async (t) => {
  const { folder, path } = vmFolder(t);
  const holder = new Holder(t, folder);
  t.equal(await holder.answer(), 'ok');
  holder.child.kill('SIGSTOP');
  age(path, 61_000);
  await using lease = await acquireLease(folder, WHAT);
  holder.child.kill('SIGCONT');
  t.equal(await holder.ask('assert'), 'lease-lost');
  t.equal(await holder.ask('release'), 'ok');
  await lease.assertHeld();
});

t.test('an owner on another host is refused within its term, and taken over after it', async (t) => {
  const { folder, path } = vmFolder(t);
  plant(path, ELSEWHERE);
  age(path, 50_000);
  await t.rejects(acquireLease(folder, WHAT), { code: 'vault-locked', details: { host: 'other' } });
  age(path, 11_000);
  await using lease = await acquireLease(folder, WHAT);
  t.equal(lease.takenFrom?.owner.host, 'other');
});

t.test('a term that passed is not enough while a journal is open; the word of the operator is', async (t) => {
  const { folder, path } = vmFolder(t);
  plant(path, ELSEWHERE);
  age(path, 3_600_000);
  writeFileSync(join(folder, 'journal.json'), '{}');
  await t.rejects(acquireLease(folder, WHAT), { code: 'vault-locked' });
  await using lease = await acquireLease(folder, { ...WHAT, breakLease: true });
  await lease.assertHeld();
});

t.test('the word of the operator is about the present owner, not about who came while waiting', async (t) => {
  const { folder } = vmFolder(t);
  const present = await acquireLease(folder, WHAT);
  const results = await Promise.allSettled(
    Array.from({ length: 5 }, () => acquireLease(folder, { ...WHAT, breakLease: true })),
  );
  const leases = results.filter((result) => result.status === 'fulfilled').map((result) => result.value);
  t.equal(leases.length, 1);
  await leases[0]!.assertHeld();
  await t.rejects(present.assertHeld(), { code: 'lease-lost' });
  await leases[0]!.release();
});

t.test(
  'after a reboot of the same machine the term has to pass, and a journal does not matter',
  async (t) => {
    const { folder, path } = vmFolder(t);
    plant(path, { bootId: 'the boot before', pid: process.pid });
    writeFileSync(join(folder, 'journal.json'), '{}');
    await t.rejects(acquireLease(folder, WHAT), { code: 'vault-locked' });
    age(path, 61_000);
    await using lease = await acquireLease(folder, WHAT);
    await lease.assertHeld();
  },
);

t.test('a process in another container of this host cannot be proved dead', async (t) => {
  const { folder, path } = vmFolder(t);
  plant(path, { pidNamespace: 'pid:[1]', startTime: 'another' });
  await t.rejects(acquireLease(folder, WHAT), { code: 'vault-locked' });
});

t.test('a lease without a sense is somebody’s until its term has passed', async (t) => {
  const { folder, path } = vmFolder(t);
  writeFileSync(path, '');
  await t.rejects(acquireLease(folder, WHAT), { code: 'vault-locked', details: { pid: null } });
  age(path, 61_000);
  await using lease = await acquireLease(folder, WHAT);
  await lease.assertHeld();
});

t.test('ages are by the clock of the NAS: a lease from the future is fresh', async (t) => {
  const { folder, path } = vmFolder(t);
  plant(path, ELSEWHERE);
  age(path, -3_600_000);
  await t.rejects(acquireLease(folder, WHAT), { code: 'vault-locked' });
});

t.test('the holder gives signs of life by itself, with its text unchanged', async (t) => {
  const { folder, path } = vmFolder(t);
  await using lease = await acquireLease(folder, { ...WHAT, refreshMs: 5 });
  const text = readFileSync(path, 'utf8');
  age(path, 61_000);
  const old = statSync(path).mtimeMs;
  await until(async () => statSync(path).mtimeMs > old || undefined, { what: 'a sign of life' });
  t.equal(readFileSync(path, 'utf8'), text);
  t.match(JSON.parse(text), { token: lease.token });
});

t.test('assertHeld starts the term anew', async (t) => {
  const { folder, path } = vmFolder(t);
  await using lease = await acquireLease(folder, WHAT);
  age(path, 61_000);
  await lease.assertHeld();
  await t.rejects(acquireLease(folder, WHAT), { code: 'vault-locked' });
});

t.test('a lease that gave a sign of life after it was judged is put back', async (t) => {
  const { folder, path } = vmFolder(t);
  await using lease = await acquireLease(folder, WHAT);
  age(path, 61_000);
  const seen = await seeClaim(path);
  await lease.assertHeld();
  t.equal(await removeClaim(seen!), false);
  await lease.assertHeld();
  t.same(readdirSync(folder), ['lease.json']);
});

t.test('a lease that was taken meanwhile by somebody else is put back', async (t) => {
  const { folder, path } = vmFolder(t);
  plant(path, { pid: 1, startTime: 'long ago' });
  const seen = await seeClaim(path);
  await using lease = await acquireLease(folder, WHAT);
  t.equal(await removeClaim(seen!), false);
  await lease.assertHeld();
});

t.test('a removed lease file is a lost lease', async (t) => {
  const { folder, path } = vmFolder(t);
  const lease = await acquireLease(folder, WHAT);
  await removeClaim((await seeClaim(path))!);
  await t.rejects(lease.assertHeld(), { code: 'lease-lost', details: { path } });
  await lease.release();
});

t.test('a lease that this process gave up without being able to remove it is dead to it', async (t) => {
  const { folder, path } = vmFolder(t);
  const lease = await acquireLease(folder, WHAT);
  const text = readFileSync(path, 'utf8');
  await lease.release();
  writeFileSync(path, text);
  await using next = await acquireLease(folder, WHAT);
  t.equal(next.takenFrom?.token, lease.token);
});

t.test('a journal that cannot be looked for is not taken for none', async (t) => {
  const { folder, path } = vmFolder(t);
  plant(path, ELSEWHERE);
  age(path, 61_000);
  await t.rejects(isJournalOpen(path), { code: 'vault-unreadable' });
  t.equal(await isJournalOpen(folder), false);
});
