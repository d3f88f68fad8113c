/** JSON-RPC 2.0 on a unix socket, one document per line. What the methods do, it is given. */
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { type Log, silent } from '../base/log.ts';
import { CONNECTION_LIMITS, Connection, type ConnectionLimits } from './connection.ts';
import { Dispatcher, type Handlers, type MethodTable, refusal } from './dispatch.ts';
import { listenAt, type SocketPlace } from './listening-socket.ts';

export type { CallContext, Handlers, RpcPeer } from './dispatch.ts';
export { inheritedSocket } from './listening-socket.ts';

export interface RpcServerOptions<T extends MethodTable> {
  readonly methods: T;
  readonly handlers: Handlers<T>;
  /** A path, or the descriptor of a socket that listens already (`inheritedSocket`). */
  readonly listen: SocketPlace | { readonly fd: number };
  readonly log?: Log;
  readonly clientsMax?: number;
  readonly limits?: Partial<ConnectionLimits>;
}

const CLIENTS_MAX = 64;
/** For the last answers, when the server ends. */
const CLOSE_MS = 1_000;

export class RpcServer {
  readonly #server: Server;
  readonly #dispatcher: Dispatcher;
  readonly #limits: ConnectionLimits;
  readonly #log: Log;
  readonly #connections = new Set<Connection>();
  #clientsMax: number;
  #lastId = 0;
  /** Said once, not to each of those who try it again and again. */
  #isFull = false;
  #removeSocket: () => Promise<void> = async () => {};
  #closing: Promise<void> | null = null;

  private constructor(options: RpcServerOptions<MethodTable>) {
    const { methods, handlers, log = silent, clientsMax = CLIENTS_MAX, limits } = options;
    this.#log = log;
    this.#dispatcher = new Dispatcher(methods, handlers, log);
    this.#limits = { ...CONNECTION_LIMITS, ...limits };
    this.#clientsMax = clientsMax;
    this.#server = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));
    // Such as EMFILE when a client is accepted: it stays in the queue.
    this.#server.on('error', (error) => this.#log.warn({ err: error }, 'the RPC socket has an error'));
  }

  /** Resolves when clients can connect. @throws socket-unfit, path-too-long */
  static async listen<T extends MethodTable>(options: RpcServerOptions<T>): Promise<RpcServer> {
    const server = new RpcServer(options as unknown as RpcServerOptions<MethodTable>);
    if ('path' in options.listen) {
      server.#removeSocket = await listenAt(server.#server, options.listen);
    } else {
      server.#server.listen({ fd: options.listen.fd });
      await once(server.#server, 'listening');
    }
    return server;
  }

  get clients(): number {
    return this.#connections.size;
  }

  /** Those that are connected already stay. */
  set clientsMax(clients: number) {
    this.#clientsMax = clients;
  }

  /** No client is accepted any more; calls that wait end with daemon-stopping. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    // First from its path, so that a new daemon finds the place free while the last answers are on their way.
    await this.#removeSocket();
    this.#server.close(() => resolve());
    await Promise.all([...this.#connections].map((connection) => connection.close(CLOSE_MS)));
    await promise;
  }

  #accept(socket: Socket): void {
    if (this.#connections.size >= this.#clientsMax) {
      socket.on('error', () => {});
      socket.write(`${refusal('daemon-busy', `${this.#connections.size} clients are connected already`)}\n`);
      socket.destroySoon();
      if (!this.#isFull) this.#log.warn({ clients: this.#connections.size }, 'further clients are refused');
      this.#isFull = true;
      return;
    }
    this.#isFull = false;
    const connection = new Connection(++this.#lastId, socket, this.#dispatcher, this.#limits);
    this.#connections.add(connection);
    void connection.closed.then(() => this.#connections.delete(connection));
  }
}
