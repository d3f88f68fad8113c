/** https://www.jsonrpc.org/specification: its examples, line by line, and what it says besides. */
import { join } from 'node:path';
import { type Test, test } from 'tap';
import { z } from 'zod';
import { RpcServer } from '../../../src/rpc/server.ts';
import { LineClient } from '../../helpers/line-client.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

const numbers = z.array(z.number());
const method = (params: z.ZodType) => ({ summary: '', params, result: z.unknown(), errors: [] });

/** Of the examples. */
const methods = {
  subtract: method(
    z.union([
      z.tuple([z.number(), z.number()]),
      z.strictObject({ minuend: z.number(), subtrahend: z.number() }),
    ]),
  ),
  sum: method(numbers),
  get_data: method(z.strictObject({})),
  update: method(numbers),
  notify_hello: method(numbers),
  fail: method(z.strictObject({})),
};

const told: unknown[] = [];
const handlers = {
  subtract: (params: unknown) => {
    const [a, b] = Array.isArray(params) ? params : Object.values(params as object);
    return a - b;
  },
  sum: (params: unknown) => (params as number[]).reduce((sum, n) => sum + n, 0),
  get_data: () => ['hello', 5],
  update: (params: unknown) => void told.push(params),
  notify_hello: (params: unknown) => void told.push(params),
  fail: () => {
    throw new Error('a defect');
  },
};

async function client(t: Test): Promise<LineClient> {
  const path = join(tempDir(t), 's');
  const server = await RpcServer.listen({ methods, handlers, listen: { path } });
  t.teardown(() => server.close());
  return LineClient.connect(t, path);
}

/** Checks what is said to a text. That nothing is said shows in the answers to what was asked behind it. */
async function check(t: Test, peer: LineClient, [what, text, answer]: Example): Promise<void> {
  const title = `${what}: ${text}`;
  if (answer !== null) {
    t.strictSame(withoutData(await peer.ask(text)), answer, title);
    return;
  }
  peer.send(text);
  for (const id of [1, 2]) {
    t.match(await peer.ask(`{"jsonrpc": "2.0", "method": "get_data", "id": ${id}}`), { id }, title);
  }
}

/** `data` is not of the specification's examples. */
function withoutData(answer: unknown): unknown {
  return JSON.parse(JSON.stringify(answer), (key, value) => (key === 'data' ? undefined : value));
}

const parseError = { jsonrpc: '2.0', error: { code: -32700, message: 'Parse error' }, id: null };
const invalid = { jsonrpc: '2.0', error: { code: -32600, message: 'Invalid Request' }, id: null };
const notFound = { jsonrpc: '2.0', error: { code: -32601, message: 'Method not found' } };

type Example = [what: string, text: string, answer: unknown];

const examples: Example[] = [
  [
    'positional parameters',
    '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
    { jsonrpc: '2.0', result: 19, id: 1 },
  ],
  [
    'positional parameters',
    '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
    { jsonrpc: '2.0', result: -19, id: 2 },
  ],
  [
    'named parameters',
    '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
    { jsonrpc: '2.0', result: 19, id: 3 },
  ],
  [
    'named parameters',
    '{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
    { jsonrpc: '2.0', result: 19, id: 4 },
  ],
  ['a notification', '{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', null],
  ['a notification', '{"jsonrpc": "2.0", "method": "foobar"}', null],
  [
    'a method that does not exist',
    '{"jsonrpc": "2.0", "method": "foobar", "id": "1"}',
    { ...notFound, id: '1' },
  ],
  ['invalid JSON', '{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]', parseError],
  ['an invalid request', '{"jsonrpc": "2.0", "method": 1, "params": "bar"}', invalid],
  [
    'a batch of invalid JSON',
    '[ {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method" ]',
    parseError,
  ],
  ['an empty array', '[]', invalid],
  ['an invalid batch', '[1]', [invalid]],
  ['an invalid batch', '[1,2,3]', [invalid, invalid, invalid]],
  [
    'a batch',
    `[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
      {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
      {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
      {"foo": "boo"},
      {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
      {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]`.replaceAll('\n', ''),
    [
      { jsonrpc: '2.0', result: 7, id: '1' },
      { jsonrpc: '2.0', result: 19, id: '2' },
      invalid,
      { ...notFound, id: '5' },
      { jsonrpc: '2.0', result: ['hello', 5], id: '9' },
    ],
  ],
  [
    'a batch of notifications',
    '[{"jsonrpc": "2.0", "method": "notify_hello", "params": [1,2,4]}, {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]',
    null,
  ],
];

/** What no example shows. */
const more: Example[] = [
  ['null is JSON, and no request', 'null', invalid],
  ['a number is JSON, and no request', '5', invalid],
  [
    'a batch of one is answered with an array',
    '[{"jsonrpc": "2.0", "method": "get_data", "id": 1}]',
    [{ jsonrpc: '2.0', result: ['hello', 5], id: 1 }],
  ],
  ['a batch of null', '[null]', [invalid]],
  ['a batch in a batch', '[[]]', [invalid]],
  ['version 1', '{"method": "get_data", "id": 1}', { ...invalid, id: 1 }],
  ['another version', '{"jsonrpc": "2.1", "method": "get_data", "id": 1}', { ...invalid, id: 1 }],
  [
    'an id of null is a request',
    '{"jsonrpc": "2.0", "method": "get_data", "id": null}',
    { jsonrpc: '2.0', result: ['hello', 5], id: null },
  ],
  [
    'an id of zero',
    '{"jsonrpc": "2.0", "method": "get_data", "id": 0}',
    { jsonrpc: '2.0', result: ['hello', 5], id: 0 },
  ],
  [
    'an empty id',
    '{"jsonrpc": "2.0", "method": "get_data", "id": ""}',
    { jsonrpc: '2.0', result: ['hello', 5], id: '' },
  ],
  ['an id that is an object', '{"jsonrpc": "2.0", "method": "get_data", "id": {}}', invalid],
  [
    'parameters that are not structured',
    '{"jsonrpc": "2.0", "method": "get_data", "params": 7, "id": 1}',
    { ...invalid, id: 1 },
  ],
  ['a response', '{"jsonrpc": "2.0", "result": 7, "id": 1}', { ...invalid, id: 1 }],
  [
    'a request and response in one',
    '{"jsonrpc": "2.0", "method": "get_data", "result": 7, "id": 1}',
    { ...invalid, id: 1 },
  ],
  [
    'a result of nothing is null',
    '{"jsonrpc": "2.0", "method": "update", "params": [1], "id": 1}',
    { jsonrpc: '2.0', result: null, id: 1 },
  ],
  [
    'parameters may be left out',
    '{"jsonrpc": "2.0", "method": "get_data", "id": 1}',
    { jsonrpc: '2.0', result: ['hello', 5], id: 1 },
  ],
  ['a notification that fails', '{"jsonrpc": "2.0", "method": "fail"}', null],
  ['a notification with wrong parameters', '{"jsonrpc": "2.0", "method": "sum", "params": ["a"]}', null],
  [
    'names of JavaScript are no methods',
    '{"jsonrpc": "2.0", "method": "__proto__", "id": 1}',
    { ...notFound, id: 1 },
  ],
  [
    'names of JavaScript are no methods',
    '{"jsonrpc": "2.0", "method": "constructor", "id": 1}',
    { ...notFound, id: 1 },
  ],
  [
    'brackets in texts are not counted',
    `[{"jsonrpc": "2.0", "method": "get_data", "id": "${'[{'.repeat(99)}"}]`,
    [{ jsonrpc: '2.0', result: ['hello', 5], id: '[{'.repeat(99) }],
  ],
  ['what is nested too deep is not parsed', `${'['.repeat(65)}${']'.repeat(65)}`, parseError],
  ['an empty line is no document', '', null],
  [
    'space around a document',
    '  {"jsonrpc": "2.0", "method": "get_data", "id": 1} \r',
    { jsonrpc: '2.0', result: ['hello', 5], id: 1 },
  ],
];

test('the examples of the specification', async (t) => {
  const peer = await client(t);
  for (const example of examples) await check(t, peer, example);
  t.same(told, [[1, 2, 3, 4, 5], [7], [1, 2, 4], [7]], 'notifications were heeded');
});

test('what the specification says besides', async (t) => {
  const peer = await client(t);
  for (const example of more) await check(t, peer, example);
});

test('errors carry our code and details', async (t) => {
  const peer = await client(t);
  t.match(await peer.ask('{'), { error: { data: { code: 'rpc-no-json', details: {} } } });
  t.match(await peer.ask('1'), { error: { data: { code: 'rpc-no-request' } } });
  t.match(await peer.ask('{"jsonrpc":"2.0","method":"x","id":1}'), {
    error: { data: { code: 'method-unknown', details: { method: 'x' } } },
  });
  t.match(await peer.ask('{"jsonrpc":"2.0","method":"sum","params":[1,"a"],"id":1}'), {
    error: { code: -32602, message: /^1: .*number/, data: { code: 'usage' } },
  });
  t.match(await peer.ask('{"jsonrpc":"2.0","method":"fail","id":1}'), {
    error: { code: -32603, data: { code: 'internal' } },
  });
});
