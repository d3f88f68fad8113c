import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import { bounded, until } from '../../src/base/deadline.ts';
import { MiB } from '../../src/base/units.ts';
import { describe, isAlive } from '../../src/image/process-id.ts';
import { checkImage, compare, createImage, rebaseImage } from '../../src/image/qemu-img.ts';
import { type QemuTools, qemuTools } from '../../src/image/tools.ts';
import { Writer } from '../../src/image/writer.ts';
import { type QemuVersion, qemuBin } from '../../vm-fixtures/guestless.ts';
import { freezableMount } from '../helpers/freezable-mount.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { processesIn, type Teardown, tempDir } from '../helpers/temp-dir.ts';

const tools = qemuTools();
const sizeBytes = 8 * MiB;

/** A folder with a writer's own folder in it, and an empty target. */
async function site(t: Teardown, using: QemuTools = tools) {
  const dir = tempDir(t);
  const own = join(dir, 'w, x');
  mkdirSync(own);
  const target = join(dir, 'vda,=.qcow2');
  await createImage(using, { path: target, format: 'qcow2', sizeBytes });
  return { dir, own, target, nbd: join(own, 'nbd.sock') };
}

function uri(socket: string, name: string): string {
  return `nbd+unix:///${encodeURIComponent(name)}?socket=${encodeURIComponent(socket)}`;
}

async function overNbd(version: QemuVersion, target: string, ...commands: string[]): Promise<string> {
  const args = ['-f', 'raw', ...commands.flatMap((command) => ['-c', command]), target];
  return (await execa(join(qemuBin(version), 'qemu-io'), args)).stdout;
}

const PAIRS: readonly (readonly [writer: QemuVersion, vm: QemuVersion])[] = [
  ['5.2', '5.2'],
  ['7.2', '5.2'],
  ['7.2', '7.2'],
  ['10.0', '7.2'],
  ['11.1', '11.1'],
  ['7.2', '11.1'],
];

for (const [version, vm] of PAIRS) {
  if (!qemuVersions([version]).length) continue;

  t.test(`a ${version} writer takes what a ${vm} client writes, and not its parent's data`, async (t) => {
    const using = qemuTools(qemuBin(version));
    const { dir, own, target, nbd } = await site(t, using);
    const parent = join(dir, 'parent.qcow2');
    const expected = join(dir, 'expected.raw');
    await createImage(using, { path: parent, format: 'qcow2', sizeBytes });
    await execa('qemu-io', ['-f', 'qcow2', '-c', 'write -P 1 0 8M', parent]);
    await rebaseImage(using, {
      path: target,
      backing: { link: 'elsewhere', format: 'qcow2' },
      headerOnly: true,
    });

    const writer = await Writer.start({ tools: using, dir: own });
    const name = 'vda with ü, and a space'.padEnd(200, 'x');
    await writer.addTarget({ name, path: target });
    await writer.serve({ socketPath: nbd });
    t.equal(statSync(nbd).mode & 0o777, 0o666, 'the folder alone says who may connect');
    await overNbd(
      vm,
      uri(nbd, name),
      'read -P 0 0 8M',
      'write -P 2 1M 1M',
      'write -z 2M 1M',
      'write -z -u 3M 1M',
    );
    await writer.finish();
    t.notOk(await describe(writer.pid));

    await rebaseImage(using, { path: target, backing: { link: parent, format: 'qcow2' }, headerOnly: true });
    t.same(await checkImage(using, { path: target }), { leaks: 0 });
    const bytes = Buffer.alloc(sizeBytes, 1)
      .fill(2, MiB, 2 * MiB)
      .fill(0, 2 * MiB, 4 * MiB);
    writeFileSync(expected, bytes);
    t.ok(await compare(using, { a: target, aFormat: 'qcow2', b: expected, bFormat: 'raw' }));
  });
}

for (const version of qemuVersions(['5.2', '7.2', '11.1'])) {
  const using = qemuTools(qemuBin(version));

  t.test(`a ${version} writer serves several targets; without any it just ends`, async (t) => {
    const { own, dir, nbd } = await site(t, using);
    const writer = await Writer.start({ tools: using, dir: own });
    for (const name of ['a', 'b', 'c']) {
      const path = join(dir, name);
      await createImage(using, { path, format: 'qcow2', sizeBytes });
      await writer.addTarget({ name, path });
    }
    await writer.serve({ socketPath: nbd });
    for (const [i, name] of ['a', 'b', 'c'].entries()) {
      await overNbd(version, uri(nbd, name), `write -P ${i + 1} 0 1M`);
    }
    await writer.finish();
    for (const [i, name] of ['a', 'b', 'c'].entries()) {
      await execa('qemu-io', ['-f', 'qcow2', '-c', `read -P ${i + 1} 0 1M`, join(dir, name)]);
    }

    const idle = await Writer.start({ tools: using, dir: own });
    await idle.finish();
  });

  t.test(`a ${version} writer disconnects who is still there when it finishes`, async (t) => {
    const { own, target, nbd } = await site(t, using);
    const writer = await Writer.start({ tools: using, dir: own });
    await writer.addTarget({ name: 'vda', path: target });
    await writer.serve({ socketPath: nbd });
    const client = execa('qemu-io', ['-f', 'raw', uri(nbd, 'vda')], { reject: false });
    t.teardown(() => client.kill('SIGKILL'));
    client.stdin.write('write -P 5 0 64k\n');
    await until(async () => (readFileSync(target).includes(Buffer.alloc(4096, 5)) ? true : undefined), {
      what: 'the write to arrive',
    });
    await writer.finish();
    await execa('qemu-io', ['-f', 'qcow2', '-c', 'read -P 5 0 64k', target]);
  });

  t.test(`a ${version} writer says which file it cannot open, and stays usable`, async (t) => {
    const { own, dir, target } = await site(t, using);
    const writer = await Writer.start({ tools: using, dir: own });
    const missing = join(dir, 'missing');
    await t.rejects(writer.addTarget({ name: 'a', path: missing }), {
      code: 'writer-failed',
      message: new RegExp(`${missing}.*No such file`),
    });
    writeFileSync(join(dir, 'text'), 'no image');
    await t.rejects(writer.addTarget({ name: 'a', path: join(dir, 'text') }), { code: 'writer-failed' });
    await writer.addTarget({ name: 'a', path: target });
    await writer.finish();
  });
}

t.test('a writer has a session of its own, and only files to write to', async (t) => {
  const { own } = await site(t);
  const writer = await Writer.start({ tools, dir: own });
  const stat = readFileSync(`/proc/${writer.pid}/stat`, 'latin1').split(') ')[1]?.split(' ');
  t.match(stat, { 3: String(writer.pid), 4: '0' });
  const outputs = [0, 1, 2].map((fd) => readlinkSync(`/proc/${writer.pid}/fd/${fd}`));
  t.same(outputs, ['/dev/null', join(own, 'log'), join(own, 'log')]);
  t.equal(readlinkSync(`/proc/${writer.pid}/cwd`), '/');
  await writer.finish();
});

/** The kernel's names for what a process has open, and the flags of those with this name. */
function openFiles(pid: number): { name: string; isDirect: boolean }[] {
  return readdirSync(`/proc/${pid}/fd`).map((fd) => {
    const flags = /^flags:\s*(\d+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'))?.[1];
    const isDirect = (Number.parseInt(flags ?? '0', 8) & 0o40000) !== 0;
    return { name: readlinkSync(`/proc/${pid}/fd/${fd}`), isDirect };
  });
}

t.test('a target is opened directly, through io_uring', async (t) => {
  const { own, target } = await site(t);
  const writer = await Writer.start({ tools, dir: own });
  await writer.addTarget({ name: 'a', path: target });
  const files = openFiles(writer.pid);
  t.ok(files.find(({ name }) => name === target)?.isDirect);
  t.ok(files.some(({ name }) => name.includes('io_uring')));
  await writer.finish();
});

t.test('on a filesystem that refuses O_DIRECT a target is opened all the same', async (t) => {
  const { own, dir, nbd } = await site(t);
  const ram = join(dir, 'ram');
  mkdirSync(ram);
  // tmpfs takes O_DIRECT since Linux 6.6, ramfs never did.
  execFileSync('mount', ['-t', 'ramfs', 'qmpvault-test', ram]);
  t.teardown(() => execFileSync('umount', ['--lazy', ram]));
  const path = join(ram, 'a.qcow2');
  await createImage(tools, { path, format: 'qcow2', sizeBytes });
  const writer = await Writer.start({ tools, dir: own });
  await writer.addTarget({ name: 'a', path });
  t.match(
    openFiles(writer.pid).find(({ name }) => name === path),
    { isDirect: false },
  );
  await writer.serve({ socketPath: nbd });
  await overNbd('7.2', uri(nbd, 'a'), 'write -P 3 0 1M');
  await writer.finish();
  await execa('qemu-io', ['-f', 'qcow2', '-c', 'read -P 3 0 1M', path]);
});

t.test('a program that is missing is named, and nothing is left running', async (t) => {
  const { own, dir } = await site(t);
  await t.rejects(Writer.start({ tools: qemuTools('/nonexistent'), dir: own }), {
    code: 'writer-failed',
    message: /\/nonexistent\/qemu-storage-daemon/,
  });
  await t.rejects(Writer.start({ tools, dir: join(own, 'x'.repeat(100)) }), { code: 'path-too-long' });
  t.same(processesIn(dir), []);
});

t.test('a daemon that crashes while it starts is started again, but not for ever', async (t) => {
  const { dir, own, target } = await site(t);
  const crashes = join(dir, 'crashes');
  const script = `#!/bin/sh
if [ -s "${crashes}" ]; then tail -n +2 "${crashes}" >"${crashes}.less" && mv "${crashes}.less" "${crashes}" && kill -SEGV $$; fi
exec ${tools.storageDaemon} "$@"
`;
  const storageDaemon = join(dir, 'crashing-daemon');
  writeFileSync(storageDaemon, script, { mode: 0o755 });
  writeFileSync(crashes, '1\n2\n');
  const writer = await Writer.start({ tools: { ...tools, storageDaemon }, dir: own });
  await writer.addTarget({ name: 'vda', path: target });
  await writer.finish();
  writeFileSync(crashes, '1\n2\n3\n4\n');
  const again = Writer.start({ tools: { ...tools, storageDaemon }, dir: own });
  await t.rejects(again, { code: 'writer-failed', message: /SIGSEGV/ });
  t.strictSame(processesIn(dir), [], 'nothing is left running');
});

t.test('a start that is cancelled leaves nothing running', async (t) => {
  const { own, dir } = await site(t);
  t.equal(
    await Writer.start({ tools, dir: own, signal: AbortSignal.abort() }).catch(({ code }) => code),
    'cancelled',
  );
  const abort = new AbortController();
  const starting = Writer.start({ tools, dir: own, signal: abort.signal });
  await until(async () => (processesIn(dir).length > 0 ? true : undefined), {
    what: 'it to run',
    everyMs: 1,
  });
  abort.abort();
  await t.rejects(starting, { code: 'cancelled' });
  await until(async () => (processesIn(dir).length === 0 ? true : undefined), { what: 'its end' });
});

t.test('a killed writer is noticed, and every call says so', async (t) => {
  const { own, dir, target } = await site(t);
  const writer = await Writer.start({ tools, dir: own });
  await writer.addTarget({ name: 'a', path: target });
  process.kill(writer.pid, 'SIGKILL');
  await bounded(writer.exited, { timeoutMs: 2_000, what: 'its end to be seen' });
  await t.rejects(writer.addTarget({ name: 'b', path: target }), { code: 'writer-failed' });
  await t.rejects(writer.serve({ socketPath: join(own, 'nbd.sock') }), { code: 'writer-failed' });
  await t.rejects(writer.finish(), { code: 'writer-failed' });
  await writer.kill();
  t.equal(await Writer.adopt({ dir: own }), null);
  t.same(processesIn(dir), []);
});

t.test('a writer that hangs fails by the deadline, and is killed within two seconds', async (t) => {
  const { own, target } = await site(t);
  const writer = await Writer.start({ tools, dir: own });
  process.kill(writer.pid, 'SIGSTOP');
  await t.rejects(writer.addTarget({ name: 'a', path: target }, { timeoutMs: 50 }), {
    code: 'writer-failed',
  });
  await t.rejects(writer.finish({ timeoutMs: 50 }), { code: 'writer-failed' });
  await t.rejects(writer.finish({ signal: AbortSignal.timeout(50) }), { code: 'cancelled' });
  const started = performance.now();
  await writer.kill();
  t.ok(performance.now() - started < 2_000);
  t.notOk(await describe(writer.pid));
  await bounded(writer.exited, { timeoutMs: 2_000, what: 'its end to be seen' });
});

for (const version of qemuVersions(['7.2', '11.1'])) {
  t.test(`a ${version} writer that hangs in the kernel is left behind within two seconds`, async (t) => {
    const { own, nbd } = await site(t);
    const nas = freezableMount(t, 64 * MiB);
    const path = join(nas.dir, 'a.qcow2');
    await createImage(tools, { path, format: 'qcow2', sizeBytes });
    const writer = await Writer.start({ tools: qemuTools(qemuBin(version)), dir: own });
    await writer.addTarget({ name: 'a', path });
    await writer.serve({ socketPath: nbd });
    nas.freeze();
    const client = execa('qemu-io', ['-f', 'raw', '-c', 'write 0 8M', uri(nbd, 'a')], { reject: false });
    t.teardown(() => client.kill('SIGKILL'));
    const sleeping = async () => (threadStates(writer.pid).includes('D') ? true : undefined);
    await until(sleeping, { what: 'a thread of it to sleep in the kernel' });

    const started = performance.now();
    await writer.kill();
    t.ok(performance.now() - started < 2_000);
    nas.thaw();
    await bounded(writer.exited, { timeoutMs: 5_000, what: 'its end once the NAS answers' });
  });
}

function threadStates(pid: number): string[] {
  return readdirSync(`/proc/${pid}/task`).map(
    (tid) => readFileSync(`/proc/${pid}/task/${tid}/stat`, 'latin1').split(') ')[1]?.[0] ?? '',
  );
}

/** An engine in a process of its own, with a writer that serves `target` as `vda`. */
async function engineWithWriter(t: Teardown, { own, target, nbd }: Awaited<ReturnType<typeof site>>) {
  const room = new URL('../../src/image/', import.meta.url);
  const script = `
    import { Writer } from '${room}writer.ts';
    import { qemuTools } from '${room}tools.ts';
    const writer = await Writer.start({ tools: qemuTools(), dir: ${JSON.stringify(own)} });
    await writer.addTarget({ name: 'vda', path: ${JSON.stringify(target)} });
    await writer.serve({ socketPath: ${JSON.stringify(nbd)} });
    console.log(writer.pid);`;
  const engine = execa(process.execPath, ['--input-type=module', '-e', script], {
    detached: true,
    reject: false,
  });
  t.teardown(() => engine.kill('SIGKILL'));
  const [pid] = await once(engine.stdout, 'data');
  return { engine, pid: Number(pid) };
}

t.test('a writer lives on when its engine is killed, and the next engine adopts it', async (t) => {
  const here = await site(t);
  const { engine, pid } = await engineWithWriter(t, here);
  const writing = overNbd('7.2', uri(here.nbd, 'vda'), 'write -P 1 0 4M', 'write -P 2 4M 4M');
  engine.kill('SIGKILL');
  await engine;
  await writing;

  const writer = await Writer.adopt({ dir: here.own });
  t.equal(writer?.pid, pid);
  t.match(await Writer.adopt({ dir: here.own, timeoutMs: 100 }).catch((error) => error), {
    code: 'writer-failed',
    cause: { code: 'qmp-no-greeting' },
  });
  await writer?.finish();
  t.notOk(await describe(pid));
  t.same(await checkImage(tools, { path: here.target }), { leaks: 0 });
  await execa('qemu-io', ['-f', 'qcow2', '-c', 'read -P 1 0 4M', '-c', 'read -P 2 4M 4M', here.target]);
  t.equal(await Writer.adopt({ dir: here.own }), null);
});

t.test('a leftover that hangs cannot be adopted, but killed', async (t) => {
  const here = await site(t);
  const { engine, pid } = await engineWithWriter(t, here);
  engine.kill('SIGKILL');
  await engine;
  process.kill(pid, 'SIGSTOP');
  await t.rejects(Writer.adopt({ dir: here.own, timeoutMs: 100 }), { code: 'writer-failed' });
  await Writer.killLeftover({ dir: here.own });
  t.notOk(await describe(pid));
  await Writer.killLeftover({ dir: here.own });
});

t.test('a process that got the number of a dead writer is neither adopted nor killed', async (t) => {
  const { own, dir } = await site(t);
  t.equal(await Writer.adopt({ dir: own }), null, 'no writer was ever here');
  await Writer.killLeftover({ dir: own });
  const stranger = execa('sleep', ['60'], { reject: false });
  t.teardown(() => stranger.kill('SIGKILL'));
  const id = (await describe(stranger.pid!))!;
  for (const pid of [`${id.pid} ${id.startTime - 1} ${id.bootId}\n`, `${id.pid} ${id.startTime}`, '']) {
    writeFileSync(join(own, 'pid'), pid);
    t.equal(await Writer.adopt({ dir: own }), null);
    await Writer.killLeftover({ dir: own });
    t.ok(await isAlive(id));
  }
  t.same(processesIn(dir), []);
});

t.test('a writer that could only print that a table was not written fails all the same', async (t) => {
  const dir = tempDir(t);
  // What qcow2_inactivate() prints; no filesystem here can be made to fail just then.
  const said = 'qemu-storage-daemon: Failed to flush the L2 block cache: No space left on device';
  const daemon = join(dir, 'daemon');
  writeFileSync(daemon, `#!/bin/sh\necho '${said}' >&2\nexec qemu-storage-daemon "$@"\n`, { mode: 0o755 });
  const writer = await Writer.start({ tools: { ...qemuTools(), storageDaemon: daemon }, dir });
  await t.rejects(writer.finish(), { code: 'vault-full', message: /L2 block cache/ });
});
