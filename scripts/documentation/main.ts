/** scripts/generate-docs: writes what is stale, or with --check only says so. */
import { readFile, writeFile } from 'node:fs/promises';
import { makeProgram } from '../../src/cli/program.ts';
import type { Shell } from '../../src/cli/shell.ts';
import { openRpcDocument } from '../../src/rpc/openrpc.ts';
import { manPage } from './man-page.ts';
import { rpcPage } from './rpc-page.ts';

const pages = {
  'docs/rpc.md': () => rpcPage(openRpcDocument()),
  // Commands use their shell only when they are run.
  'docs/qmpvault.1': () => manPage(makeProgram({ output: {} } as Shell)),
};
const isCheck = process.argv.includes('--check');

for (const [path, make] of Object.entries(pages)) {
  const page = make();
  if (page === (await readFile(path, 'utf8').catch(() => ''))) continue;
  if (isCheck) {
    console.error(`${path} is stale: run scripts/generate-docs, and commit what it writes`);
    process.exitCode = 1;
  } else {
    await writeFile(path, page);
    console.log(`${path} is written`);
  }
}
