/** The other end of a unix socket, played by the test line by line: a QEMU or a guest agent that misbehaves at will. */
import { on, once } from 'node:events';
import net from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type Teardown, tempDir } from './temp-dir.ts';

export interface Request {
  readonly execute?: string;
  readonly 'exec-oob'?: string;
  readonly arguments?: Readonly<Record<string, unknown>>;
  readonly id?: unknown;
}

export class ScriptedPeer {
  readonly path: string;
  readonly #connections: AsyncIterator<net.Socket[]>;

  private constructor(path: string, server: net.Server) {
    this.path = path;
    this.#connections = on(server, 'connection');
  }

  static async listen(t: Teardown): Promise<ScriptedPeer> {
    const path = join(tempDir(t), 'peer.sock');
    const server = net.createServer();
    t.teardown(() => server.close());
    const peer = new ScriptedPeer(path, server);
    server.listen(path);
    await once(server, 'listening');
    return peer;
  }

  /** The next client. */
  async accept(t: Teardown): Promise<PeerConnection> {
    const {
      value: [socket],
    } = await this.#connections.next();
    const connection = new PeerConnection(socket);
    t.teardown(() => connection.cut());
    return connection;
  }
}

export class PeerConnection {
  readonly #socket: net.Socket;
  readonly #lines: AsyncIterator<string>;

  constructor(socket: net.Socket) {
    this.#socket = socket;
    socket.on('error', () => {});
    // latin1 keeps the guest agent's 0xFF visible; requests of the tests are ASCII.
    this.#lines = createInterface({ input: socket.setEncoding('latin1') })[Symbol.asyncIterator]();
  }

  /** The next request, as it was written. */
  async line(): Promise<string> {
    return (await this.#lines.next()).value;
  }

  /** The next request. */
  async request(): Promise<Request> {
    return JSON.parse((await this.line()).replace('\xff', ''));
  }

  send(...values: unknown[]): void {
    this.raw(values.map((value) => `${JSON.stringify(value)}\r\n`).join(''));
  }

  raw(bytes: string | Uint8Array): void {
    this.#socket.write(bytes);
  }

  /** Ends the connection after what was sent. */
  end(): void {
    this.#socket.end();
  }

  cut(): void {
    this.#socket.destroy();
  }

  /** Resolves when the client has closed the connection. */
  async closed(): Promise<void> {
    if (!this.#socket.closed) await once(this.#socket, 'close');
  }
}
