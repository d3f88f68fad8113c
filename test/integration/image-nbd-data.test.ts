import { mkdirSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import { GiB, KiB } from '../../src/base/units.ts';
import { readDataRanges } from '../../src/image/nbd-data.ts';
import { createImage } from '../../src/image/qemu-img.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { Writer } from '../../src/image/writer.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { type Teardown, tempDir } from '../helpers/temp-dir.ts';

const timeoutMs = 10_000;

for (const qemu of qemuVersions()) {
  t.test(`QEMU ${qemu}: the data of an export, across pieces and up to its end`, async (t) => {
    const dir = tempDir(t);
    const tools = qemuTools(qemuBin(qemu));
    const path = join(dir, 'a.qcow2');
    const sizeBytes = 3 * GiB + 100 * KiB;
    await createImage(tools, { path, format: 'qcow2', sizeBytes });
    const writes = [
      `0 64k`,
      `64k 64k`,
      `${GiB - 64 * KiB} 128k`,
      `${2 * GiB} 64k`,
      `${sizeBytes - 4 * KiB} 4k`,
    ];
    const commands = writes.flatMap((where) => ['-c', `write -P 1 ${where}`]);
    await execa(tools.qemuIo, ['-f', 'qcow2', ...commands, '-c', `write -z ${2 * GiB} 64k`, path]);
    const own = join(dir, 'w');
    mkdirSync(own);
    const writer = await Writer.start({ tools, dir: own });
    t.teardown(() => writer.kill());
    await writer.addTarget({ name: 'vda', path });
    const socket = join(own, 'nbd.sock');
    await writer.serve({ socketPath: socket });

    const ranges = await readDataRanges({ socket, exportName: 'vda' }, { timeoutMs });
    t.strictSame(ranges, [
      { startBytes: 0, endBytes: 128 * KiB },
      { startBytes: GiB - 64 * KiB, endBytes: GiB + 64 * KiB },
      { startBytes: 3 * GiB + 64 * KiB, endBytes: sizeBytes },
    ]);
    await t.rejects(readDataRanges({ socket, exportName: 'vdb' }, { timeoutMs }), {
      code: 'image-tool-failed',
    });
    await writer.finish();
  });
}

/** A server that answers every connection with these bytes. */
async function serverThatSends(t: Teardown, bytes: Buffer, { end = false } = {}): Promise<string> {
  const path = join(tempDir(t), 'nbd.sock');
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.write(bytes);
    if (end) socket.end();
  });
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(path, resolve);
  await promise;
  return path;
}

const greeting = Buffer.from('NBDMAGICIHAVEOPT\0\x03', 'latin1');

for (const [what, bytes, end] of [
  ['greets with something else', Buffer.alloc(18, 'x'), false],
  ['goes away', greeting, true],
  ['answers an option with something else', Buffer.concat([greeting, Buffer.alloc(20, 'x')]), false],
  ['says nothing', Buffer.alloc(0), false],
] as const) {
  t.test(`a server that ${what} is an error`, async (t) => {
    const socket = await serverThatSends(t, bytes, { end });
    const reading = readDataRanges({ socket, exportName: 'vda' }, { timeoutMs: 500 });
    await t.rejects(reading, { code: 'image-tool-failed' });
  });
}

t.test('cancelled while it waits', async (t) => {
  const socket = await serverThatSends(t, Buffer.alloc(0));
  const cancel = new AbortController();
  const reading = readDataRanges({ socket, exportName: 'vda' }, { signal: cancel.signal, timeoutMs });
  cancel.abort();
  await t.rejects(reading, { code: 'cancelled' });
});

t.test('nobody listens', async (t) => {
  const socket = join(tempDir(t), 'nobody.sock');
  await t.rejects(readDataRanges({ socket, exportName: 'vda' }, { timeoutMs }), {
    code: 'image-tool-failed',
  });
});
