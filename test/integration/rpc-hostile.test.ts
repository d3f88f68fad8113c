import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { type Test, test } from 'tap';
import { LineClient } from '../helpers/line-client.ts';
import { SCRIPT } from '../helpers/rpc-fixture.ts';
import { tempDir } from '../helpers/temp-dir.ts';

const MiB = 1024 ** 2;
const SENT_BYTES = 64 * MiB;

/** A server in a process of its own, whose memory can be looked at. */
async function serve(t: Test): Promise<{ path: string; peakMiB: () => number }> {
  const path = join(tempDir(t), 's');
  // A heap that could not hold what is sent: otherwise V8 would collect its garbage when it likes.
  const heap = ['--max-old-space-size=48', '--max-semi-space-size=4'];
  const child = execa(process.execPath, [...heap, SCRIPT, path], { reject: false });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const peak = () => /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1];
  return { path, peakMiB: () => Number(peak()) / 1024 };
}

/** Until it is all sent, or the server has had enough. */
async function pour(client: LineClient, chunk: Buffer): Promise<void> {
  const { socket } = client;
  for (let sent = 0; sent < SENT_BYTES && socket.readable; sent += chunk.length) {
    if (!socket.write(chunk)) await Promise.race([once(socket, 'drain').catch(() => {}), client.ended]);
  }
}

test('64 MiB of garbage cost a bounded amount of memory, and others are served meanwhile', async (t) => {
  const { path, peakMiB } = await serve(t);
  const other = await LineClient.connect(t, path);
  const echo = (i: number) => `{"jsonrpc": "2.0", "method": "echo", "params": {"i": ${i}}, "id": ${i}}`;
  for (let i = 0; i < 1000; i += 1) await other.ask(echo(i));
  const before = peakMiB();

  const kinds: Record<string, Buffer> = {
    'a line without end': Buffer.alloc(MiB, 'x'),
    'brackets without end': Buffer.alloc(MiB, '['),
    'bytes that are no text': Buffer.alloc(MiB, 0xff),
    'lines that are no JSON': Buffer.from(`${'x'.repeat(16_383)}\n`.repeat(64)),
    'long lines of brackets': Buffer.from(`${'['.repeat(MiB - 2)}\n`),
    'requests whose answers nobody reads': Buffer.from(
      `${'{"jsonrpc":"2.0","method":"big","params":{"chars":100000},"id":1}\n'.repeat(1000)}`,
    ),
  };
  for (const [kind, chunk] of Object.entries(kinds)) {
    await t.test(kind, async (t) => {
      const hostile = await LineClient.connect(t, path);
      const doesRead = !kind.includes('nobody reads');
      if (doesRead) void hostile.readAll();
      else hostile.socket.pause();
      let poured = false;
      const pouring = pour(hostile, chunk).then(() => {
        poured = true;
      });
      let served = 0;
      // Who does not read is not read from: his 64 MiB never arrive.
      for (; doesRead ? !poured : served < 200; served += 1) {
        const { result } = (await other.ask(echo(served))) as { result: { i: number } };
        if (result.i !== served) t.fail(`another client got the answer ${result.i} for ${served}`);
      }
      t.ok(served > 0, `${served} requests of another client were answered`);
      hostile.socket.destroy();
      await pouring;
      t.comment(`${peakMiB().toFixed(0)} MiB`);
    });
  }
  const grown = peakMiB() - before;
  t.comment(`peak: ${before.toFixed(0)} MiB before, ${grown.toFixed(0)} MiB more`);
  t.ok(grown < 64, `${grown} MiB`);
});

test('systemd may hold the socket', async (t) => {
  const path = join(tempDir(t), 's');
  // What systemd does, in the words of sd_listen_fds(3).
  const activate = `
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="rpc")
os.execv(sys.argv[2], sys.argv[2:])
`;
  const child = execa('python3', ['-c', activate, path, process.execPath, SCRIPT], { reject: false });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const client = await LineClient.connect(t, path);
  t.match(await client.ask('{"jsonrpc": "2.0", "method": "echo", "params": {"a": 1}, "id": 1}'), {
    result: { a: 1 },
  });
  child.kill('SIGTERM');
  t.equal(await client.line(), null);
  t.equal((await child).exitCode, 0);
});
