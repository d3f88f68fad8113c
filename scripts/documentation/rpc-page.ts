/** docs/rpc.md, from the document that rpc.discover returns. */
import type { ContentDescriptor, JsonSchema, OpenRpcDocument } from '../../src/rpc/openrpc.ts';

const INTRODUCTION = `# The JSON-RPC interface

<!-- Made by scripts/generate-docs from src/rpc: change it there. -->

The daemon listens on a unix socket, \`/run/qmpvault/rpc.sock\` unless the configuration says otherwise, of mode 0660 and the
configured group. It speaks [JSON-RPC 2.0](https://www.jsonrpc.org/specification): requests, notifications and batches,
each document on a line of its own, UTF-8, without a byte order mark. Any JSON-RPC library that can be given a stream will
do; this is all that Python needs:

\`\`\`python
import json, socket

connection = socket.socket(socket.AF_UNIX)
connection.connect("/run/qmpvault/rpc.sock")
stream = connection.makefile("rw", encoding="utf-8")

def call(method, **params):
    stream.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}) + "\\n")
    stream.flush()
    answer = json.loads(stream.readline())
    if "error" in answer:
        raise RuntimeError(answer["error"]["message"], answer["error"]["data"]["code"])
    return answer["result"]

run = call("backup.start", vm="web1", requestId="nightly-2026-11-25")
print(call("run.wait", **run)["state"])
\`\`\`

From a shell: \`qmpvault rpc point.list '{"vm": "web1"}'\`.

**Parameters** are given by name; unknown ones are refused. **Results** may get more members in a later version, and none
loses its meaning: let those pass that you do not know. \`rpc.discover\` returns all of this as an
[OpenRPC](https://spec.open-rpc.org) document.

**Runs.** What takes long is a run: the method answers \`{"runId": …}\` as soon as the wish is written down, and the run goes
on whether or not anybody is connected, also over a restart of the daemon. Follow it with \`run.wait\`, or with
\`run.subscribe\` and the notifications below. Give a \`requestId\` where a call may be repeated: after a lost connection ask once
more under the same id, and there is still one run. Methods that are no runs answer within seconds; while a NAS hangs they
end with \`vault-away\`.

**Order.** Requests of one connection are worked on side by side: answers come as they are ready, and carry the \`id\`.

**Bounds.** A line has at most 1 MiB, longer ones are answered with an error and the connection ends. A client may have 256
requests under way; one more gets \`daemon-busy\`. Who does not read is not read from; his notifications are overtaken by newer
ones of the same run, and with 8 MiB of answers unread, or after a minute in which he took none of them, he is
disconnected. Who closes his sending side gets the answers that are ready within 5 seconds. There are at most 64 clients.
`;

export function rpcPage({ methods, components, 'x-notifications': notifications }: OpenRpcDocument): string {
  const parts = [INTRODUCTION, '## Methods\n'];
  for (const { name, summary, params, result, errors } of methods) {
    parts.push(`### ${name}\n\n${summary}.\n`);
    if (params.length > 0) parts.push(parameterTable(params));
    parts.push(resultText(result.schema));
    const codes = errors.map(({ $ref }) => `\`${$ref.split('/').at(-1)}\``);
    if (codes.length > 0) parts.push(`Errors: ${codes.join(', ')}.\n`);
  }
  parts.push('## Notifications\n\nSent by the daemon, once `run.subscribe` was called.\n');
  for (const { name, summary, params } of notifications) {
    parts.push(`### ${name}\n\n${summary}.\n`, parameterTable(params));
  }
  parts.push('## Objects\n');
  const schemas = Object.entries(components.schemas).toSorted(([a], [b]) => (a < b ? -1 : 1));
  for (const [name, schema] of schemas) {
    parts.push(`### ${name}\n`);
    if (schema.description) parts.push(`${sentence(schema.description)}\n`);
    parts.push(memberTable(schema));
  }
  parts.push(errorText(components.errors));
  return parts.join('\n');
}

function parameterTable(params: readonly ContentDescriptor[]): string {
  const rows = params.map(({ name, required, description = '', schema }) => [
    `\`${name}\``,
    typeOf(schema),
    required ? 'yes' : '',
    description,
  ]);
  return table(['parameter', 'type', 'needed', ''], rows);
}

function resultText(schema: JsonSchema): string {
  const name = referenced(schema);
  if (name !== null) return `Result: ${name}.\n`;
  if (Object.keys(schema.properties ?? {}).length === 0) return `Result: ${typeOf(schema)}.\n`;
  return `Result:\n\n${memberTable(schema)}`;
}

function memberTable(schema: JsonSchema): string {
  return table(['member', 'type', ''], memberRows(schema, ''));
}

/** Members of objects that have no name stand below those, with the path to them. */
function memberRows({ properties = {}, required = [] }: JsonSchema, path: string): string[][] {
  return Object.entries(properties).flatMap(([name, schema]) => {
    const where = `${path}${name}`;
    const may = required.includes(name) ? '' : ', may be missing';
    const row = [`\`${where}\``, `${typeOf(schema)}${may}`, schema.description ?? ''];
    const inner = withoutNull(schema);
    if (inner.type === 'array' && inner.items) return [row, ...memberRows(inner.items, `${where}[].`)];
    return [row, ...memberRows(inner, `${where}.`)];
  });
}

function typeOf(schema: JsonSchema): string {
  const name = referenced(schema);
  if (name !== null) return name;
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(' or ');
  if (schema.enum) return schema.enum.map((value) => `\`${value}\``).join(', ');
  if (schema.const !== undefined) return `\`${schema.const}\``;
  if (schema.type === 'array') return `list of ${schema.items ? typeOf(schema.items) : 'anything'}`;
  if (schema.type === 'object' && typeof schema.additionalProperties === 'object') {
    const keys = schema.propertyNames?.enum?.map((key) => `\`${key}\``).join(', ') ?? 'names';
    return `object: ${keys} with ${typeOf(schema.additionalProperties)}`;
  }
  if (schema.format === 'date-time') return 'time';
  const types = [schema.type ?? 'anything'].flat();
  return types.join(' or ');
}

function withoutNull(schema: JsonSchema): JsonSchema {
  const others = schema.anyOf?.filter(({ type }) => type !== 'null') ?? [];
  return others.length === 1 && others[0] ? others[0] : schema;
}

function referenced({ $ref }: JsonSchema): string | null {
  const name = $ref?.split('/').at(-1);
  return name === undefined ? null : `[${name}](#${name.toLowerCase()})`;
}

function errorText(errors: OpenRpcDocument['components']['errors']): string {
  const rows = Object.entries(errors).map(([code, { code: number, message, 'x-exit-code': exit }]) => [
    `\`${code}\``,
    `${number}`,
    `${exit}`,
    message,
  ]);
  return `## Errors

\`error.data\` is \`{"code", "details"}\`: the code never changes its meaning, the message is for people. The numbers of
JSON-RPC's own errors stand in this table too. The command line ends with the exit code; with \`--json\` it prints code,
message and details.

${table(['code', 'number', 'exit code', 'meaning'], rows)}`;
}

function table(heading: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) =>
    `| ${cells.map((cell) => cell.replaceAll('|', '\\|').replaceAll('<', '\\<')).join(' | ')} |`;
  return `${[line(heading), line(heading.map(() => '---')), ...rows.map(line)].join('\n')}\n`;
}

function sentence(text: string): string {
  return `${text.slice(0, 1).toUpperCase()}${text.slice(1)}.`;
}
