import { createHash } from 'node:crypto';
import { realpath } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { errnoOf, messageOf, QmpvaultError } from '../base/errors.ts';

/**
 * Makes sure that one daemon alone works with a state folder: it holds a name in the abstract namespace of unix sockets,
 * which exists in this moment only, and which the kernel takes back however the daemon ends.
 * @throws daemon-running
 */
export async function beSole(stateDir: string): Promise<Server> {
  const digest = createHash('sha256')
    .update(await realpath(stateDir))
    .digest('hex');
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  // Nobody has anything to say here.
  const server = createServer((socket) => socket.destroy());
  server.on('error', reject);
  server.listen(`\0qmpvault-${digest.slice(0, 32)}`, resolve);
  try {
    await promise;
  } catch (cause) {
    const isHeld = errnoOf(cause) === 'EADDRINUSE';
    throw new QmpvaultError(
      isHeld ? 'daemon-running' : 'internal',
      isHeld
        ? `another daemon works with ${stateDir}: stop it first, or give this one a folder of its own`
        : `cannot tell whether another daemon works with ${stateDir}: ${messageOf(cause)}`,
      { details: { stateDir }, cause },
    );
  }
  return server.unref();
}
