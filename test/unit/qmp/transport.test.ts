import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { setImmediate } from 'node:timers/promises';
import fc from 'fast-check';
import t from 'tap';
import type { QmpError } from '../../../qmp/errors.ts';
import { type Effect, Session } from '../../../qmp/session.ts';
import { openSocket, Transport } from '../../../qmp/transport.ts';
import { ScriptedPeer } from '../../helpers/scripted-peer.ts';

/** A socket whose chunks are exactly what the test pushes. */
class ChunkedSocket extends Duplex {
  written = Buffer.alloc(0);

  constructor() {
    super({ allowHalfOpen: false });
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.written = Buffer.concat([this.written, chunk]);
    done();
  }
}

interface Outcome {
  values: unknown[];
  /** undefined: still open */
  end: QmpError | null | undefined;
}

/** What arrives of these chunks; null among them is the peer's orderly end. */
async function receive(
  chunks: readonly (string | Uint8Array | null)[],
  { maxLineBytes = 1000, garbage = 'fatal' as 'fatal' | 'skip' } = {},
): Promise<Outcome> {
  const socket = new ChunkedSocket();
  const outcome: Outcome = { values: [], end: undefined };
  const transport = new Transport(socket as unknown as Socket, {
    maxLineBytes,
    garbage,
    onValue: (value) => outcome.values.push(value),
    onEnd: (reason) => {
      outcome.end = reason;
    },
  });
  for (const chunk of chunks) {
    if (socket.destroyed) break;
    socket.push(typeof chunk === 'string' ? Buffer.from(chunk) : chunk && Buffer.from(chunk));
    await setImmediate();
  }
  const result = { ...outcome };
  await transport.close();
  return result;
}

const GREETING =
  '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 1, "major": 11}}, "capabilities": ["oob"]}}';
const TRANSCRIPT = [
  GREETING,
  '{"return": {}, "id": "0"}',
  '{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}',
  '{"return": {"file": "/v/größe-日本-💾.qcow2"}, "id": "1"}',
  '{"timestamp": {"seconds": 1, "microseconds": 3}, "event": "RESUME"}',
  '{"error": {"class": "GenericError", "desc": "no"}, "id": "2"}',
];
const BYTES = Buffer.from(TRANSCRIPT.map((line) => `${line}\r\n`).join(''));
const VALUES = TRANSCRIPT.map((line) => JSON.parse(line));

t.test('a transcript arrives whole, split at any byte', async (t) => {
  for (let at = 0; at <= BYTES.length; at += 1) {
    const { values, end } = await receive([BYTES.subarray(0, at), BYTES.subarray(at)]);
    if (values.length !== VALUES.length || end !== undefined) t.fail(`split at ${at}`);
    t.strictSame(values, VALUES);
  }
});

t.test('a transcript arrives whole, byte by byte, merged, and split at random', async (t) => {
  t.strictSame((await receive([...BYTES].map((byte) => Uint8Array.of(byte)))).values, VALUES);
  t.strictSame((await receive([BYTES])).values, VALUES);
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(fc.nat(BYTES.length)), async (cuts) => {
      const places = [0, ...cuts.toSorted((a, b) => a - b), BYTES.length];
      const chunks = places.slice(1).map((end, index) => BYTES.subarray(places[index], end));
      t.strictSame((await receive(chunks)).values, VALUES);
    }),
    { numRuns: 50 },
  );
});

t.test('the session does the same whatever the chunks are', async (t) => {
  const effects = async (chunks: Uint8Array[]): Promise<Effect['kind'][]> => {
    const session = new Session();
    const { values } = await receive(chunks);
    return values.flatMap((value) => session.received(value)).map(({ kind }) => kind);
  };
  const merged = await effects([BYTES]);
  t.same(merged, ['greeted', 'send', 'event', 'event'], 'the replies are not to its own ids');
  t.same(await effects([...BYTES].map((byte) => Uint8Array.of(byte))), merged);
});

t.test('empty lines are nothing', async (t) => {
  t.strictSame(await receive(['\n\r\n{}\n\n']), { values: [{}], end: undefined });
});

t.test(
  'what was complete before the end arrives; an unfinished line is lost with the connection',
  async (t) => {
    const lines = [...Array(500).keys()].map((index) => `{"index":${index}}\n`).join('');
    const { values, end } = await receive([`${lines}{"unfinis`, null, '']);
    t.equal(values.length, 500);
    t.match(end, { code: 'qmp-closed' });
  },
);

t.test('lines that still wait in the parser when the socket closes arrive before its end', async (t) => {
  const socket = new ChunkedSocket();
  const ended = Promise.withResolvers<QmpError | null>();
  let count = 0;
  new Transport(socket as unknown as Socket, {
    garbage: 'fatal',
    onValue: () => {
      count += 1;
    },
    onEnd: ended.resolve,
  });
  for (let chunk = 0; chunk < 100; chunk += 1) socket.push(Buffer.from('{}\n'.repeat(100)));
  socket.push(null);
  t.match(await ended.promise, { code: 'qmp-closed' });
  t.equal(count, 10_000);
});

t.test('a line that is no JSON ends the connection, and nothing after it is handed on', async (t) => {
  const { values, end } = await receive(['{"a":1}\nhello\n{"b":1}\n', '{"c":1}\n']);
  t.strictSame(values, [{ a: 1 }]);
  t.match(end, { code: 'qmp-protocol' });
});

t.test('a line null ends the connection as a breach, not as an orderly end', async (t) => {
  const { values, end } = await receive(['{"a":1}\n', 'null\n', '{"b":1}\n']);
  t.strictSame(values, [{ a: 1 }]);
  t.match(end, { code: 'qmp-protocol' });
});

t.test('an overlong line ends the connection before it ends itself', async (t) => {
  const { values, end } = await receive(['{"a":"', ...Array(100).fill('x'.repeat(100))]);
  t.strictSame(values, []);
  t.match(end, { code: 'qmp-protocol' });
});

t.test('an endless line costs no more memory than the limit and one chunk', async (t) => {
  const chunk = Buffer.alloc(64 * 1024, 'x');
  const socket = new ChunkedSocket();
  const ended = Promise.withResolvers<QmpError | null>();
  new Transport(socket as unknown as Socket, {
    maxLineBytes: 1024 * 1024,
    garbage: 'fatal',
    onValue: () => t.fail('no value'),
    onEnd: ended.resolve,
  });
  let pushed = 0;
  while (!socket.destroyed) {
    socket.push(chunk);
    pushed += chunk.length;
    await setImmediate();
  }
  t.match(await ended.promise, { code: 'qmp-protocol' });
  t.ok(pushed <= 1024 * 1024 + 3 * chunk.length, `${pushed} bytes`);
});

t.test('where garbage is skipped, the lines between arrive, and 0xFF ends a line', async (t) => {
  const chunks = [
    'garbage\n{"a":1}\n{"unfin',
    Buffer.concat([Buffer.of(0xff), Buffer.from('{"b":2}\n'), Buffer.of(0xff, 0xff)]),
    Buffer.of(0xff),
    '{"c":3}\n\u0000\n',
  ];
  const { values, end } = await receive(chunks, { garbage: 'skip' });
  t.strictSame(values, [{ a: 1 }, { b: 2 }, { c: 3 }]);
  t.equal(end, undefined);
});

t.test('an error of the socket is a lost connection', async (t) => {
  const socket = new ChunkedSocket();
  const ended = Promise.withResolvers<QmpError | null>();
  const transport = new Transport(socket as unknown as Socket, {
    garbage: 'fatal',
    onValue: () => {},
    onEnd: ended.resolve,
  });
  const cause = Object.assign(new TypeError('reset'), { code: 'ECONNRESET' });
  socket.destroy(cause);
  t.match(await ended.promise, { code: 'qmp-closed', cause });
  await transport.close();
});

t.test('a value is sent as one line, with a mark before it where asked for', async (t) => {
  const socket = new ChunkedSocket();
  const options = { garbage: 'fatal' as const, onValue: () => {}, onEnd: () => {} };
  const transport = new Transport(socket as unknown as Socket, options);
  transport.send({ a: 'ü', b: undefined });
  transport.send({ c: 1 }, 0xff);
  t.strictSame(
    socket.written,
    Buffer.concat([Buffer.from('{"a":"ü"}\n'), Buffer.of(0xff), Buffer.from('{"c":1}\n')]),
  );
  await transport.close();
  await transport.close();
});

t.test('a socket path that Node would cut is refused', async (t) => {
  for (const path of [`/tmp/${'x'.repeat(103)}`, `/tmp/${'ü'.repeat(52)}`, '']) {
    await t.rejects(openSocket(path, {}), { code: 'qmp-connect', details: { path } });
  }
});

t.test('a connection that cannot be made keeps the system error as its cause', async (t) => {
  const peer = await ScriptedPeer.listen(t);
  await t.rejects(openSocket(`${peer.path}.none`, {}), { code: 'qmp-connect', cause: { code: 'ENOENT' } });
  await t.rejects(openSocket(peer.path, { signal: AbortSignal.abort() }), { code: 'qmp-aborted' });
  const controller = new AbortController();
  const connecting = openSocket(peer.path, { signal: controller.signal });
  controller.abort();
  await t.rejects(connecting, { code: 'qmp-aborted' });
});

t.test('whatever bytes come, in whatever pieces, a session takes them or ends for a reason', async (t) => {
  const ENDS = [undefined, 'qmp-protocol', 'qmp-closed'];
  // A transcript with bytes changed, cut or put in gets further than noise does.
  const damage = fc.array(fc.tuple(fc.nat(BYTES.length), fc.nat(40), fc.uint8Array({ maxLength: 20 })), {
    maxLength: 3,
  });
  const damaged = damage.map((changes) =>
    changes.reduce(
      (bytes, [at, cut, put]) => Buffer.concat([bytes.subarray(0, at), put, bytes.subarray(at + cut)]),
      BYTES,
    ),
  );
  const bytes = fc.oneof(damaged, fc.uint8Array({ maxLength: 300 }));
  await fc.assert(
    fc.asyncProperty(bytes, fc.nat(300), fc.constantFrom('fatal', 'skip'), async (bytes, at, garbage) => {
      const { values, end } = await receive([bytes.subarray(0, at), bytes.subarray(at), null], { garbage });
      const session = new Session();
      for (const value of values) session.received(value);
      return ENDS.includes(end?.code);
    }),
    { numRuns: 400 },
  );
  t.pass('held');
});
