/** A client of the RPC socket that knows lines and nothing else, so that it can say whatever it likes. */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import type { Teardown } from './temp-dir.ts';

export class LineClient {
  readonly socket: Socket;
  /** When the server has nothing more to say, or the connection is broken. */
  readonly ended: Promise<void>;
  readonly #lines: AsyncIterator<string>;

  private constructor(socket: Socket) {
    this.socket = socket;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ended = promise;
    socket.on('end', resolve).on('close', resolve);
    socket.on('error', () => {});
    this.#lines = createInterface({ input: socket })[Symbol.asyncIterator]();
  }

  static async connect(t: Teardown, path: string): Promise<LineClient> {
    const socket = createConnection({ path, allowHalfOpen: true });
    t.teardown(() => socket.destroy());
    await once(socket, 'connect');
    return new LineClient(socket);
  }

  send(...texts: string[]): void {
    for (const text of texts) this.socket.write(`${text}\n`);
  }

  /** The next line; null when the server has ended. */
  async line(): Promise<string | null> {
    const { value, done } = await this.#lines.next();
    return done ? null : value;
  }

  /** Lets all pass that is said, until the connection has ended. */
  async readAll(): Promise<void> {
    while ((await this.line().catch(() => null)) !== null);
  }

  async json(): Promise<unknown> {
    const line = await this.line();
    return line === null ? null : JSON.parse(line);
  }

  /** What the server says to this. */
  ask(text: string): Promise<unknown> {
    this.send(text);
    return this.json();
  }
}
