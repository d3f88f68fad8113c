/** What a guest says on its serial port, from its first byte on: QEMU connects to us before the guest begins. */
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { stripVTControlCharacters } from 'node:util';
import { socketPath } from '../base/ids.ts';
import { KiB, MiB } from '../base/units.ts';

/** A guest may talk without end: the last of it is kept. */
const KEPT_CHARACTERS = MiB;
const LINE_MAX_CHARACTERS = 4 * KiB;

export class SerialConsole {
  readonly path: string;
  readonly #server: Server;
  #socket: Socket | undefined;
  #text = '';
  /** What came since the last end of a line. */
  #line = '';
  #awaited: { readonly pattern: RegExp; readonly found: (line: string) => void } | undefined;

  private constructor(path: string, server: Server) {
    this.path = path;
    this.#server = server;
    server.on('connection', (socket) => {
      this.#socket = socket;
      socket.setEncoding('utf8');
      socket.on('data', (chunk: string) => this.#heard(chunk));
      socket.on('error', () => {}); // it has ended, which QMP tells
    });
  }

  /** @throws path-too-long */
  static async listen(path: string): Promise<SerialConsole> {
    const server = createServer();
    server.listen(socketPath(path));
    await once(server, 'listening');
    return new SerialConsole(path, server);
  }

  /** All that was kept of it. */
  get text(): string {
    return this.#text;
  }

  /** The first line that matches, said before or from now on, colours apart; also one without its end, as a prompt. */
  line(pattern: RegExp): Promise<string> {
    const { promise, resolve } = Promise.withResolvers<string>();
    this.#awaited = { pattern, found: resolve };
    this.#look(linesOf(this.#text));
    return promise;
  }

  close(): void {
    this.#socket?.destroy();
    this.#server.close();
  }

  #heard(chunk: string): void {
    this.#text = (this.#text + chunk).slice(-KEPT_CHARACTERS);
    const lines = linesOf(this.#line + chunk);
    this.#line = lines.at(-1)?.slice(-LINE_MAX_CHARACTERS) ?? '';
    this.#look(lines);
  }

  #look(lines: readonly string[]): void {
    for (const line of lines) {
      const plain = stripVTControlCharacters(line.slice(-LINE_MAX_CHARACTERS));
      if (this.#awaited?.pattern.test(plain)) this.#awaited.found(plain);
    }
  }
}

function linesOf(text: string): string[] {
  return text.split(/\r*\n/);
}
