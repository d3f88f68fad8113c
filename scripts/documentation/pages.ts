/** The pages that are made from the program itself, and by whom. */
import { openRpcDocument } from '../../src/rpc/openrpc.ts';
import { rpcPage } from './rpc-page.ts';

export const pages: Readonly<Record<string, () => string>> = {
  'docs/rpc.md': () => rpcPage(openRpcDocument()),
};
