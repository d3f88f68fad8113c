/**
 * A process that deletes a point and kills itself at its nth step, or never: `VAULT STATE RUNTIME BIN POINT WISH NTH`.
 * It says which step that was.
 */
import type { VmName } from '../../src/base/ids.ts';
import { silent } from '../../src/base/log.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import type { Descendants } from '../../src/upkeep/delete-plan.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import { openVault } from '../../src/vault/vault.ts';

const [path = '', state = '', runtimeDir = '', bin = '', point = '', wish = '', nth = ''] =
  process.argv.slice(2);

let reached = 0;
const reachStep = async (step: string) => {
  reached += 1;
  if (reached !== Number(nth)) return;
  process.stdout.write(`${step}\n`);
  process.kill(process.pid, 'SIGKILL');
};
const vault = await openVault(path, { memory: new VaultMemory(state) });
const engine = { runtimeDir, tools: qemuTools(bin), log: silent, reachStep };
await deletePoint(engine, vault, { vm: 'web1' as VmName, point, descendants: wish as Descendants });
