/** qmpvault as its Debian package runs it: compiled, with its flags of Node, and with what Node compiled before. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { NODE_FLAGS } from '../../src/base/node-flags.ts';

export const PACKAGED = [
  ...NODE_FLAGS,
  fileURLToPath(new URL('../../dist/qmpvault.js', import.meta.url)),
] as const;

export function packagedEnv({ dir }: { readonly dir: string }): { NODE_COMPILE_CACHE: string } {
  return { NODE_COMPILE_CACHE: join(dir, 'compiled') };
}
