/**
 * What a QEMU can do, remembered by its binary, on this host. Only time depends on it: what is not there, or cannot be read,
 * is asked from QEMU again.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileDurably } from '../vault/durable.ts';
import type { CapabilityMemory } from '../vm/vm.ts';
import type { Engine } from './engine.ts';

export function capabilityMemory({
  stateDir,
  version,
  log,
}: Pick<Engine, 'stateDir' | 'version' | 'log'>): CapabilityMemory {
  const folder = join(stateDir, 'qemu');
  const fileOf = (binary: string) =>
    join(folder, `${createHash('sha256').update(binary).digest('hex').slice(0, 32)}.json`);
  return {
    recall: async (binary) => {
      try {
        const known = JSON.parse(await readFile(fileOf(binary), 'utf8')) as Partial<Known> | null;
        return known?.binary === binary && known.version === version ? known.capabilities : null;
      } catch {
        return null;
      }
    },
    remember: async (binary, capabilities) => {
      try {
        await mkdir(folder, { recursive: true });
        const known: Known = { binary, version, capabilities };
        await writeFileDurably(fileOf(binary), `${JSON.stringify(known, null, 2)}\n`);
      } catch (error) {
        log.debug({ err: error, folder }, 'what this QEMU can do will be asked again');
      }
    },
  };
}

interface Known {
  readonly binary: string;
  /** Of qmpvault: another one may read more out of a schema, or read it better. */
  readonly version: string;
  readonly capabilities: unknown;
}
