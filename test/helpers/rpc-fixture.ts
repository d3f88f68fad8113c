/** Methods that do what tests need, served in this process or, started as a script, in one of its own. */
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { cancelledBy } from '../../src/base/deadline.ts';
import { type Handlers, inheritedSocket, RpcServer } from '../../src/rpc/server.ts';

export const METHODS = {
  echo: { summary: '', params: z.looseObject({}), result: z.unknown(), errors: [] },
  /** Never answers by itself. */
  wait: { summary: '', params: z.strictObject({}), result: z.null(), errors: [] },
  big: { summary: '', params: z.strictObject({ chars: z.int() }), result: z.string(), errors: [] },
  /** Tells so many things of so many kinds. */
  tell: {
    summary: '',
    params: z.strictObject({ times: z.int(), keys: z.int() }),
    result: z.null(),
    errors: [],
  },
} as const;

export const HANDLERS: Handlers<typeof METHODS> = {
  echo: (params) => params,
  wait: (_, { signal }) => {
    const { promise, reject } = Promise.withResolvers<never>();
    const end = () => reject(cancelledBy(signal));
    if (signal.aborted) end();
    else signal.addEventListener('abort', end);
    return promise;
  },
  big: ({ chars }) => 'x'.repeat(chars),
  tell: ({ times, keys }, { client }) => {
    for (let i = 0; i < times; i += 1) {
      client.notify('told', { key: i % keys, i, filling: 'x'.repeat(1000) }, `${i % keys}`);
    }
    return null;
  },
};

export const SCRIPT = fileURLToPath(import.meta.url);

if (process.argv[1] === SCRIPT) {
  const fd = inheritedSocket(process.env);
  const listen = fd === null ? { path: process.argv[2] ?? '' } : { fd };
  const server = await RpcServer.listen({ methods: METHODS, handlers: HANDLERS, listen });
  process.on('SIGTERM', () => void server.close());
  process.stdout.write('listening\n');
}
