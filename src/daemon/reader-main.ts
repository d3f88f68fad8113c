/**
 * A reader: answers short questions about a vault, one line each, for a daemon that must not wait for the NAS itself.
 *   {"id": 1, "operation": "list", "params": {...}}  ->  {"id": 1, "result": {...}} or {"id": 1, "error": {...}}
 * It ends with its stdin. Its argument is what of an engine it needs, as JSON.
 */
import { errorJson } from '../base/errors.ts';
import { silent } from '../base/log.ts';
import { noSteps } from '../base/steps.ts';
import { VERSION } from '../base/version.ts';
import { qemuTools } from '../image/tools.ts';
import { type OperationName, perform } from '../operations/index.ts';
import { onJsonLines } from './json-lines.ts';

interface Question {
  readonly id: number;
  readonly operation: OperationName;
  readonly params: never;
}

const { places, qemuBin } = JSON.parse(process.argv[2] ?? '{}');
const engine = {
  ...places,
  tools: qemuTools(qemuBin ?? undefined),
  version: VERSION,
  log: silent,
  reachStep: noSteps,
};

async function answer({ id, operation, params }: Question): Promise<void> {
  const said = await perform(operation, params, { engine }).then(
    (result) => ({ id, result }),
    (error: unknown) => ({ id, error: errorJson(error) }),
  );
  process.stdout.write(`${JSON.stringify(said)}\n`);
}

process.stdout.on('error', () => process.exit(0));
onJsonLines<Question>(process.stdin, (question) => void answer(question));
// At once, also while questions hang in the NAS: nobody waits for the answers.
process.stdin.on('close', () => process.exit(0));
