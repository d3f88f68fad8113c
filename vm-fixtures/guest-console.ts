/** The guest's second serial port, from outside: its first line, and commands (protocol: guest/init). */
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { bounded } from '../src/base/deadline.ts';
import { FixtureError } from './errors.ts';

export interface CommandResult {
  /** stdout and stderr */
  readonly output: string;
  readonly status: number;
}

interface Waiter {
  readonly pattern: RegExp;
  readonly resolve: (match: RegExpExecArray) => void;
  readonly reject: (error: unknown) => void;
}

export class GuestConsole {
  readonly #socket: Socket;
  #text = '';
  #waiter: Waiter | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      this.#text += chunk;
      this.#look();
    });
    socket.on('error', () => {}); // 'close' follows
    socket.once('close', () => this.#waiter?.reject(this.#error('the guest ended')));
  }

  static async connect(path: string): Promise<GuestConsole> {
    const socket = createConnection(path);
    await once(socket, 'connect');
    return new GuestConsole(socket);
  }

  /** @throws FixtureError guest-io: a disk could not be mounted; fixture-timeout */
  async ready(timeoutMs: number): Promise<void> {
    const [, problems] = await this.#expect(/READY(.*)\n/, timeoutMs, 'READY');
    if (problems) throw new FixtureError('guest-io', `the guest is ready${problems}`);
  }

  /** Runs a shell command, several lines if need be, one at a time. */
  async run(command: string, timeoutMs: number): Promise<CommandResult> {
    const token = randomUUID();
    this.#socket.write(`${token} ${Buffer.from(command).toString('base64')}\n`);
    const [, output = '', status] = await this.#expect(
      new RegExp(`^([^]*)\\n${token} (\\d+)\\n`),
      timeoutMs,
      command,
    );
    return { output, status: Number(status) };
  }

  close(): void {
    this.#socket.destroy();
  }

  async #expect(pattern: RegExp, timeoutMs: number, what: string): Promise<RegExpExecArray> {
    const { promise, resolve, reject } = Promise.withResolvers<RegExpExecArray>();
    this.#waiter = { pattern, resolve, reject };
    this.#look();
    if (this.#socket.destroyed) reject(this.#error('the guest has ended'));
    try {
      return await bounded(promise, { timeoutMs, what: `the guest: ${what}` });
    } catch (error) {
      throw error instanceof FixtureError ? error : this.#error(`no reply to ${what}`, error);
    } finally {
      this.#waiter = undefined;
    }
  }

  #look(): void {
    const match = this.#waiter?.pattern.exec(this.#text);
    if (!match) return;
    this.#text = this.#text.slice(match.index + match[0].length);
    this.#waiter?.resolve(match);
  }

  #error(what: string, cause?: unknown): FixtureError {
    return new FixtureError(
      'fixture-timeout',
      `${what}; last heard: ${JSON.stringify(this.#text.slice(-500))}`,
      cause,
    );
  }
}
