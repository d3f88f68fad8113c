/**
 * Which vault this host knows at which path. A NAS that is not mounted looks like an empty folder; that a vault was
 * there before is the only way to tell. One file per path, so that two processes never lose each other's entries.
 */
import { createHash } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { z } from 'zod';
import type { VaultId } from '../base/ids.ts';
import { writeFileDurably } from './durable.ts';
import { ioError, isErrno } from './io-error.ts';
import { FORMAT, isVaultId, parseVaultJson } from './manifest.ts';
import { readText } from './read-text.ts';

const schema = z.object({ format: z.literal(FORMAT), path: z.string(), id: z.custom<VaultId>(isVaultId) });

export class VaultMemory {
  readonly #folder: string;

  /** @param stateDir host-local; made when it is missing */
  constructor(stateDir: string) {
    this.#folder = join(stateDir, 'vaults');
  }

  /** null when none was ever seen at this path. @throws manifest-invalid, vault-unreadable */
  async recall(path: string): Promise<VaultId | null> {
    const file = await this.#fileOf(path);
    const text = await readText(file);
    return text === undefined ? null : parseVaultJson(schema, text, file).id;
  }

  /** @throws vault-unreadable, vault-full, sync-failed */
  async remember(path: string, id: VaultId): Promise<void> {
    const file = await this.#fileOf(path);
    try {
      await fs.mkdir(this.#folder, { recursive: true });
    } catch (error) {
      throw ioError(error, 'making', this.#folder);
    }
    const entry: z.output<typeof schema> = { format: FORMAT, path: await realPathOf(path), id };
    await writeFileDurably(file, `${JSON.stringify(entry, null, 2)}\n`);
  }

  async #fileOf(path: string): Promise<string> {
    const digest = createHash('sha256')
      .update(await realPathOf(path))
      .digest('hex');
    return join(this.#folder, `${digest.slice(0, 32)}.json`);
  }
}

/** Like realpath, but also of what is not there: a mount point's symbolic link may dangle while the NAS is away. */
async function realPathOf(path: string): Promise<string> {
  const absolute = resolve(path);
  try {
    return await fs.realpath(absolute);
  } catch (error) {
    if (!isErrno(error, 'ENOENT')) throw ioError(error, 'resolving', absolute);
    const parent = dirname(absolute);
    const target = await fs.readlink(absolute).catch(() => null);
    return target === null
      ? join(await realPathOf(parent), basename(absolute))
      : realPathOf(resolve(parent, target));
  }
}
