import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import { until } from '../../src/base/deadline.ts';
import { errnoOf } from '../../src/base/errors.ts';
import { MiB } from '../../src/base/units.ts';
import { describe } from '../../src/image/process-id.ts';
import { readQcow2Header } from '../../src/image/qcow2-header.ts';
import {
  checkImage,
  commitImage,
  compare,
  convertImage,
  createImage,
  imageInfo,
  rebaseImage,
} from '../../src/image/qemu-img.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { freezableMount } from '../helpers/freezable-mount.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { smallTmpfs } from '../helpers/small-tmpfs.ts';
import { processesIn, tempDir } from '../helpers/temp-dir.ts';

const ODD_NAMES = [
  'with space',
  'a,b,,c=d',
  'nbd:host:10809',
  'json:{"driver":"null-co"}',
  '-f',
  '--help',
  'file:x',
  'ü % $HOME `x` "y" \'z\'',
  'new\nline',
];

async function qemuIo(path: string, ...commands: string[]): Promise<void> {
  await execa('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
}

for (const version of qemuVersions(['5.2', '7.2', '11.1'])) {
  const tools = qemuTools(qemuBin(version));

  t.test(`qemu-img ${version}: an image is made as asked, and says so`, async (t) => {
    const dir = tempDir(t);
    const path = join(dir, 'a.qcow2');
    const backing = { link: '../no such point/a.qcow2', format: 'qcow2' };
    await createImage(tools, { path, format: 'qcow2', sizeBytes: 3 * MiB, clusterBytes: 65536, backing });
    t.match(await imageInfo(tools, { path }), {
      format: 'qcow2',
      virtualSizeBytes: 3 * MiB,
      allocatedBytes: Number,
      backingLink: '../no such point/a.qcow2',
      backingFormat: 'qcow2',
      clusterBytes: 65536,
      compat: '1.1',
      bitmaps: [],
    });
    t.match(await readQcow2Header(path), { version: 3, backingLink: backing.link, backingFormat: 'qcow2' });
    t.same(await checkImage(tools, { path }), { leaks: 0 }, 'its backing file need not be there');

    await createImage(tools, { path: join(dir, 'raw'), format: 'raw', sizeBytes: MiB });
    t.match(await imageInfo(tools, { path: join(dir, 'raw'), format: 'raw' }), {
      format: 'raw',
      backingLink: null,
      compat: null,
    });
  });

  t.test(`qemu-img ${version}: bitmaps are listed with their flags`, async (t) => {
    const path = join(tempDir(t), 'a.qcow2');
    await createImage(tools, { path, format: 'qcow2', sizeBytes: MiB });
    await execa(tools.qemuImg, ['bitmap', '--add', '-g', '65536', path, 'b']);
    const { bitmaps } = await imageInfo(tools, { path });
    t.same(bitmaps, [{ name: 'b', granularityBytes: 65536, flags: ['auto'] }]);
  });

  t.test(`qemu-img ${version}: no path is taken for an option or a protocol`, async (t) => {
    const dir = tempDir(t);
    process.chdir(dir);
    t.teardown(() => process.chdir('/'));
    for (const name of ODD_NAMES) {
      const path = `${name}/${name}`;
      const copy = `${path}.copy`;
      mkdirSync(name);
      await createImage(tools, { path, format: 'qcow2', sizeBytes: MiB });
      t.match(await imageInfo(tools, { path }), { format: 'qcow2' }, JSON.stringify(name));
      t.same(await checkImage(tools, { path }), { leaks: 0 });
      await convertImage(tools, { source: path, sourceFormat: 'qcow2', target: copy, targetFormat: 'raw' });
      t.ok(await compare(tools, { a: path, aFormat: 'qcow2', b: copy, bFormat: 'raw' }));
      t.same(readdirSync(name).sort(), [name, `${name}.copy`], 'in the files that were named');

      rmSync(name, { recursive: true });
      await createImage(tools, { path: name, format: 'qcow2', sizeBytes: MiB });
      t.match(await imageInfo(tools, { path: name, format: 'qcow2' }), { virtualSizeBytes: MiB }, 'bare');
      t.same(await checkImage(tools, { path: name }), { leaks: 0 });
    }
  });

  t.test(`qemu-img ${version}: a chain is copied, compared, rebased and committed`, async (t) => {
    const dir = tempDir(t);
    const at = (name: string) => join(dir, name);
    const link = (name: string) => ({ link: name, format: 'qcow2' });
    await createImage(tools, { path: at('p0'), format: 'qcow2', sizeBytes: 8 * MiB });
    await qemuIo(at('p0'), 'write -P 1 0 4M');
    await createImage(tools, { path: at('p1'), format: 'qcow2', sizeBytes: 8 * MiB, backing: link('p0') });
    await qemuIo(at('p1'), 'write -P 2 1M 1M');
    await createImage(tools, { path: at('p2'), format: 'qcow2', sizeBytes: 8 * MiB, backing: link('p1') });
    await qemuIo(at('p2'), 'write -P 3 2M 1M');

    const fractions: number[] = [];
    const copy = { source: at('p2'), sourceFormat: 'qcow2', target: at('raw'), targetFormat: 'raw' };
    await convertImage(tools, copy, { onProgress: (fraction) => fractions.push(fraction) });
    t.equal(fractions.at(-1), 1);
    t.ok(fractions.every((fraction, i) => fraction >= 0 && fraction >= (fractions[i - 1] ?? 0)));
    t.ok(statSync(at('raw')).blocks * 512 <= 4 * MiB, 'the rest is sparse');
    const same = () => compare(tools, { a: at('p2'), aFormat: 'qcow2', b: at('raw'), bFormat: 'raw' });
    t.ok(await same());

    await rebaseImage(tools, { path: at('p2'), backing: link('p0') });
    t.equal((await readQcow2Header(at('p2'))).backingLink, 'p0');
    t.ok(await same(), 'onto the point before: reads the same');

    await rebaseImage(tools, { path: at('p2'), backing: link('p1'), headerOnly: true });
    t.ok(await same(), 'back, by the header alone');

    rmSync(at('p1'));
    await createImage(tools, { path: at('p1'), format: 'qcow2', sizeBytes: 8 * MiB, backing: link('p0') });
    await commitImage(tools, { path: at('p2') });
    t.ok(await same(), 'the committed image itself is as it was');
    const merged = { a: at('p1'), aFormat: 'qcow2', b: at('raw'), bFormat: 'raw' };
    t.ok(await compare(tools, merged), 'and what it held is in its backing file');

    await rebaseImage(tools, { path: at('p2'), backing: null });
    t.equal((await readQcow2Header(at('p2'))).backingLink, null);
    rmSync(at('p0'));
    t.ok(await same(), 'stands alone');

    await qemuIo(at('p2'), 'write -P 9 7M 64k');
    t.notOk(await same());
  });

  t.test(`qemu-img ${version}: a copy into an existing file leaves nothing of what was there`, async (t) => {
    const dir = tempDir(t);
    const source = join(dir, 'a.qcow2');
    const target = join(dir, 'b.raw');
    await createImage(tools, { path: source, format: 'qcow2', sizeBytes: 2 * MiB });
    writeFileSync(target, Buffer.alloc(2 * MiB, 7));
    const image = { source, sourceFormat: 'qcow2', target, targetFormat: 'raw', targetExists: true };
    await convertImage(tools, image);
    t.ok(await compare(tools, { a: source, aFormat: 'qcow2', b: target, bFormat: 'raw' }));
  });

  t.test(`qemu-img ${version}: leaks are told, damage is an error`, async (t) => {
    const path = join(tempDir(t), 'a.qcow2');
    await createImage(tools, { path, format: 'qcow2', sizeBytes: 4 * MiB });
    await qemuIo(path, 'write -P 1 0 1M');
    await using file = await open(path, 'r+');
    const header = Buffer.alloc(104);
    await file.read(header, 0, 104, 0);
    const l1 = Number(header.readBigUInt64BE(40));
    const entry = Buffer.alloc(8);
    await file.read(entry, 0, 8, l1);
    const l2 = Number(entry.readBigUInt64BE() & 0x00ff_ffff_ffff_fe00n);
    const whole = Buffer.alloc(16);
    await file.read(whole, 0, 16, l2);

    await file.write(Buffer.alloc(8), 0, 8, l2);
    t.same(await checkImage(tools, { path }), { leaks: 1 }, 'a cluster that nothing refers to');
    await file.write(whole.subarray(8), 0, 8, l2);
    await t.rejects(checkImage(tools, { path }), { code: 'image-invalid' }, 'a cluster used twice');

    truncateSync(path, 40);
    await t.rejects(checkImage(tools, { path }), { code: 'image-invalid' });
    writeFileSync(path, 'no image at all');
    await t.rejects(checkImage(tools, { path }), { code: 'image-invalid' });
  });

  t.test(
    `qemu-img ${version}: a file with a foreign data file is refused before QEMU opens it`,
    async (t) => {
      const dir = tempDir(t);
      const path = join(dir, 'a.qcow2');
      const args = ['create', '-q', '-f', 'qcow2', '-o', `data_file=${join(dir, 'secret')}`, path, '1M'];
      await execa(tools.qemuImg, args);
      rmSync(join(dir, 'secret'));
      t.match(await readQcow2Header(path), { externalData: true });
      await t.rejects(checkImage(tools, { path }), { code: 'image-invalid' });
    },
  );

  t.test(`qemu-img ${version}: a full disk is told from other failures`, async (t) => {
    const dir = tempDir(t);
    const small = smallTmpfs(t, 2 * MiB);
    const source = join(dir, 'a.qcow2');
    await createImage(tools, { path: source, format: 'qcow2', sizeBytes: 8 * MiB });
    await qemuIo(source, 'write -P 1 0 8M');
    for (const targetFormat of ['raw', 'qcow2']) {
      const target = join(small, targetFormat);
      const error = await convertImage(tools, { source, sourceFormat: 'qcow2', target, targetFormat }).catch(
        (error) => error,
      );
      t.match(error, { code: 'image-tool-failed', details: { exitCode: 1 } });
      t.equal(errnoOf(error), 'ENOSPC');
      rmSync(target, { force: true });
    }
    const missing = await imageInfo(tools, { path: join(dir, 'missing') }).catch((error) => error);
    t.match(missing, { code: 'image-tool-failed', details: { stderr: /No such file/ } });
    t.equal(errnoOf(missing), undefined);
  });
}

const tools = qemuTools();

/** An image of which every read takes its time: copying it takes minutes. */
async function slowImage(dir: string): Promise<string> {
  const path = join(dir, 'slow.qcow2');
  const file = { driver: 'null-co', size: 100 * 1024 * MiB, 'latency-ns': 20_000_000 };
  const backing = { link: `json:${JSON.stringify({ driver: 'raw', file })}`, format: 'raw' };
  await createImage(tools, { path, format: 'qcow2', sizeBytes: file.size, backing });
  return path;
}

function qemuImgIn(dir: string): number[] {
  return processesIn(dir).flatMap(({ pid, command }) => (command.includes('qemu-img convert') ? [pid] : []));
}

t.test('an aborted copy ends at once, and nothing goes on writing', async (t) => {
  const dir = tempDir(t);
  const source = await slowImage(dir);
  const image = { source, sourceFormat: 'qcow2', target: join(dir, 'raw'), targetFormat: 'raw' };
  const abort = new AbortController();
  let abortedAt = 0;
  const onProgress = (fraction: number) => {
    if (fraction === 0 || abort.signal.aborted) return;
    t.equal(qemuImgIn(dir).length, 1, 'it runs');
    abortedAt = performance.now();
    abort.abort();
  };
  await t.rejects(convertImage(tools, image, { signal: abort.signal, onProgress }), { code: 'cancelled' });
  t.ok(performance.now() - abortedAt < 1_000);
  t.same(qemuImgIn(dir), []);

  await t.rejects(
    convertImage(tools, image, { signal: abort.signal }),
    { code: 'cancelled' },
    'not begun at all',
  );
  t.same(qemuImgIn(dir), []);
});

t.test('a copy that takes too long ends by its deadline', async (t) => {
  const dir = tempDir(t);
  const source = await slowImage(dir);
  const image = { source, sourceFormat: 'qcow2', target: join(dir, 'raw'), targetFormat: 'raw' };
  await t.rejects(convertImage(tools, image, { timeoutMs: 100 }), { code: 'image-tool-failed' });
  t.same(qemuImgIn(dir), []);
});

t.test('a copy that hangs in the kernel is left behind', async (t) => {
  const dir = tempDir(t);
  const nas = freezableMount(t, 64 * MiB);
  const source = await slowImage(dir);
  const image = { source, sourceFormat: 'qcow2', target: join(nas.dir, 'raw'), targetFormat: 'raw' };
  writeFileSync(image.target, '');
  nas.freeze();
  const started = performance.now();
  const copying = t.rejects(convertImage(tools, image, { timeoutMs: 500 }), { code: 'image-tool-failed' });
  const pid = await until(async () => qemuImgIn(dir)[0], { what: 'qemu-img to run' });
  await copying;
  t.ok(performance.now() - started < 2_000);
  t.ok(await describe(pid), 'it cannot die yet');
  nas.thaw();
  await until(async () => ((await describe(pid)) === null ? true : undefined), { what: 'its end' });
});

t.test('qemu-img dies with a killed engine, and belongs to no terminal', async (t) => {
  const dir = tempDir(t);
  const source = await slowImage(dir);
  const image = { source, sourceFormat: 'qcow2', target: join(dir, 'raw'), targetFormat: 'raw' };
  const room = new URL('../../src/image/', import.meta.url);
  const script = `
    import { convertImage } from '${room}qemu-img.ts';
    import { qemuTools } from '${room}tools.ts';
    await convertImage(qemuTools(), ${JSON.stringify(image)});`;
  const engine = execa(process.execPath, ['--input-type=module', '-e', script], { reject: false });
  t.teardown(() => engine.kill('SIGKILL'));
  const look = async () => qemuImgIn(dir)[0];
  const pid = await until(look, { what: 'qemu-img to run' });
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]?.split(' ');
  t.match(stat, { 3: String(pid), 4: '0' }, 'its own session, without a terminal');
  engine.kill('SIGKILL');
  await engine;
  await until(async () => (qemuImgIn(dir).length === 0 ? true : undefined), { what: 'its end' });
});

t.test('a program that is missing is named', async (t) => {
  const nowhere = qemuTools('/nonexistent');
  await t.rejects(imageInfo(nowhere, { path: '/x' }), {
    code: 'image-tool-failed',
    message: /\/nonexistent\/qemu-img/,
  });
});

t.test('a qemu-img that could only print that a table was not written has failed', async (t) => {
  const dir = tempDir(t);
  const said = 'qemu-img: Failed to flush the refcount block cache: Input/output error';
  const qemuImg = join(dir, 'qemu-img');
  writeFileSync(qemuImg, `#!/bin/sh\necho '${said}' >&2\nexec qemu-img "$@"\n`, { mode: 0o755 });
  const path = join(dir, 'a.qcow2');
  const made = createImage({ ...qemuTools(), qemuImg }, { path, format: 'qcow2', sizeBytes: MiB });
  await t.rejects(made, { code: 'image-tool-failed', message: /refcount block cache/ });
});
