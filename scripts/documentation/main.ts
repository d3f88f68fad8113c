/** scripts/generate-docs: writes what is stale, or with --check only says so. */
import { readFile, writeFile } from 'node:fs/promises';
import { openRpcDocument } from '../../src/rpc/openrpc.ts';
import { rpcPage } from './rpc-page.ts';

const pages = { 'docs/rpc.md': () => rpcPage(openRpcDocument()) };
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
