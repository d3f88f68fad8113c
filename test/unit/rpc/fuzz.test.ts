/** Whatever is sent: the answers are JSON-RPC, one at most for each document, and everybody else is served. */
import { join } from 'node:path';
import fc from 'fast-check';
import { test } from 'tap';
import { RpcServer } from '../../../src/rpc/server.ts';
import { LineClient } from '../../helpers/line-client.ts';
import { HANDLERS, METHODS } from '../../helpers/rpc-fixture.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

const LINE_MAX = 4096;
const request = fc.record(
  {
    jsonrpc: fc.constantFrom('2.0', '1.0', 2, null),
    method: fc.oneof(fc.constantFrom('echo', 'big', 'tell', '__proto__', ''), fc.string(), fc.jsonValue()),
    params: fc.oneof(fc.constant({ chars: 3 }), fc.constant({ times: 3, keys: 2 }), fc.jsonValue()),
    id: fc.oneof(fc.integer(), fc.string(), fc.jsonValue()),
    result: fc.jsonValue(),
  },
  { requiredKeys: [] },
);
const json = fc.oneof(request, fc.array(request), fc.jsonValue());
/** One line that is nearly right: a byte is another, or some are missing. */
const damaged = fc.tuple(json, fc.nat(), fc.uint8Array({ maxLength: 3 })).map(([value, at, bytes]) => {
  const line = Buffer.from(JSON.stringify(value));
  const where = at % (line.length + 1);
  return Buffer.concat([line.subarray(0, where), bytes, line.subarray(where + bytes.length)]);
});
const garbage = fc.uint8Array({ maxLength: 200 }).map((bytes) => Buffer.from(bytes));
const long = fc.integer({ min: LINE_MAX, max: 3 * LINE_MAX }).map((length) => Buffer.alloc(length, '['));
const line = fc.oneof(
  { weight: 5, arbitrary: json.map((value) => Buffer.from(JSON.stringify(value))) },
  { weight: 3, arbitrary: damaged },
  { weight: 2, arbitrary: garbage },
  { weight: 1, arbitrary: long },
);

function isResponse(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  const { jsonrpc, id, result, error } = value as Record<string, unknown>;
  const hasOne = (result === undefined) !== (error === undefined);
  return jsonrpc === '2.0' && hasOne && (id === null || ['string', 'number'].includes(typeof id));
}

function isAnswer(value: unknown): boolean {
  return Array.isArray(value) ? value.length > 0 && value.every(isResponse) : isResponse(value);
}

test('no bytes get more than they ask for, and nobody else gets less', async (t) => {
  const path = join(tempDir(t), 's');
  await using _server = await RpcServer.listen({
    methods: METHODS,
    handlers: HANDLERS,
    listen: { path },
    limits: { lineMaxBytes: LINE_MAX, lingerMs: 1_000 },
  });
  const other = await LineClient.connect(t, path);
  const property = fc.asyncProperty(fc.array(line, { maxLength: 20 }), fc.boolean(), async (lines, isCut) => {
    const hostile = await LineClient.connect(t, path);
    const bytes = Buffer.concat(lines.flatMap((line) => [line, Buffer.from('\n')]));
    hostile.socket.end(isCut ? bytes.subarray(0, -2) : bytes);
    const answers: unknown[] = [];
    for (let said = await hostile.line(); said !== null; said = await hostile.line()) {
      const value = JSON.parse(said);
      if (value.method === 'told') continue;
      answers.push(value);
    }
    const documents = bytes.toString('latin1').split('\n').length;
    const echo = await other.ask('{"jsonrpc": "2.0", "method": "echo", "params": {"a": 1}, "id": 1}');
    const { result } = echo as { result: unknown };
    return answers.every(isAnswer) && answers.length <= documents && JSON.stringify(result) === '{"a":1}';
  });
  await fc.assert(property, { numRuns: 300 });
  t.pass();
});
