/**
 * The guard process; guard.ts starts it and says what it is for. Descriptor 0 is the pipe from the engine, 1 the
 * way back, 3 the VM's QMP connection, 4 the guest agent's. Arguments: the limit in milliseconds, whether there is an
 * agent (`agent` or nothing), and the paths of the two sockets, if they are known.
 *
 * It imports nothing of ours, since its start is part of a backup, and touches the connections only to act: until
 * then the engine is their reader. When it acts the engine is dead, or hangs and may come back and read too; then
 * a reply may get lost, so that every question is asked until it is answered, and no reply is taken for anything
 * but the state that it tells.
 */
import { writeSync } from 'node:fs';
import { connect, Socket } from 'node:net';

type Danger = 'paused' | 'frozen';

const [limitMs = '10000', agent = '', qmpPath = '', agentPath = ''] = process.argv.slice(2);
const QMP_FD = 3;
const AGENT_FD = 4;
/** What answers nobody for so long is not ours to mend. */
const ACT_FOR_MS = 300_000;
const FIRST_WAIT_MS = 200;
/** Between a connection that ended and the next: a peer that closes each of them was asked 3000 times a second (m). */
const RECONNECT_MS = 20;
const LONGEST_WAIT_MS = 2_000;
const LINE_MAX_CHARACTERS = 1024 ** 2;
/** The exit code that tells the engine, if it is there to see it, that the guest went on without it. */
const ACTED = 3;

const dangers = new Set<Danger>();
let limit: NodeJS.Timeout | undefined;
let acting = false;

const ARMS: Readonly<Record<string, Danger>> = { pausing: 'paused', freezing: 'frozen' };
const DISARMS: Readonly<Record<string, Danger>> = { resumed: 'paused', thawed: 'frozen' };

/** Answers every line with itself: that is how the engine knows that it is guarded. While acting it says nothing. */
function heard(line: string): void {
  const arms = ARMS[line];
  const disarms = DISARMS[line];
  if (disarms !== undefined) dangers.delete(disarms);
  if (acting) return;
  if (arms !== undefined) {
    dangers.add(arms);
    // One limit for all, from the first: a guest that is frozen and then paused too must not wait twice.
    limit ??= setTimeout(act, Number(limitMs));
  }
  if (dangers.size === 0) {
    clearTimeout(limit);
    limit = undefined;
  }
  say(line);
}

function say(line: string): void {
  try {
    writeSync(1, `${line}\n`);
  } catch {
    // Nobody listens any more.
  }
}

async function act(): Promise<void> {
  if (acting) return;
  acting = true;
  if (dangers.size === 0) process.exit(0);
  // Both at once: a guest that is paused answers no thaw, but the request waits for it in the channel.
  await Promise.all([dangers.has('paused') && resume(), dangers.has('frozen') && agent && thaw()]);
  process.exit(ACTED);
}

/**
 * One connection, taken over: sends lines, hands out whatever line is JSON. If it is cut (by what stands between us and
 * the VM, since QEMU itself closes none as long as it lives) another one is made; nobody listens where QEMU died.
 */
class Peer {
  readonly #path: string;
  readonly #hello: string;
  readonly #end = performance.now() + ACT_FOR_MS;
  #socket: Socket;
  #rest = '';
  #wait = FIRST_WAIT_MS;
  #onReply: (reply: Reply) => void = () => {};
  #isOpen = true;

  constructor(fd: number, path: string, hello = '') {
    this.#path = path;
    this.#hello = hello;
    this.#socket = this.#use(new Socket({ fd, readable: true, writable: true }));
  }

  #use(socket: Socket): Socket {
    let refused = this.#path === '';
    socket.setEncoding('latin1');
    socket.on('data', (chunk: string) => this.#received(chunk));
    socket.on('error', (error: NodeJS.ErrnoException) => {
      refused ||= error.code === 'ECONNREFUSED' || error.code === 'ENOENT';
    });
    socket.on('close', () => {
      if (refused) this.#isOpen = false;
      if (this.#isOpen) setTimeout(() => this.#reconnect(), RECONNECT_MS);
    });
    return socket;
  }

  #reconnect(): void {
    if (!this.#isOpen) return;
    this.#rest = '';
    this.#socket = this.#use(connect(this.#path));
    this.#socket.write(this.#hello);
  }

  /** Whether there is still sense in asking. */
  get isWorthAsking(): boolean {
    return this.#isOpen && performance.now() < this.#end;
  }

  /** What `recognise` makes of one of the replies that come, or undefined if none is in time. */
  async ask<T>(bytes: string, recognise: (reply: Reply) => T | undefined): Promise<T | undefined> {
    const { promise, resolve } = Promise.withResolvers<T | undefined>();
    const timer = setTimeout(() => resolve(undefined), this.#wait);
    this.#onReply = (reply) => {
      const found = recognise(reply);
      if (found !== undefined) resolve(found);
    };
    this.#socket.write(bytes, 'latin1');
    const answer = await promise;
    clearTimeout(timer);
    this.#wait = answer === undefined ? Math.min(2 * this.#wait, LONGEST_WAIT_MS) : FIRST_WAIT_MS;
    return answer;
  }

  /** Frees the monitor for the next engine. */
  close(): void {
    this.#isOpen = false;
    this.#socket.destroy();
  }

  #received(chunk: string): void {
    // 0xFF comes before an agent's reply to guest-sync-delimited, and is no part of any line.
    const lines = (this.#rest + chunk.replaceAll('\xff', '\n')).split('\n');
    this.#rest = lines.pop() ?? '';
    if (this.#rest.length > LINE_MAX_CHARACTERS) this.#rest = '';
    for (const line of lines) {
      try {
        this.#onReply(Object(JSON.parse(line)));
      } catch {
        // Half a line whose other half the engine has read, or no JSON: no news.
      }
    }
  }
}

interface Reply {
  readonly id?: unknown;
  readonly return?: unknown;
  readonly error?: unknown;
}

/** Only a VM that is `paused` goes on: in any other state it is not our `stop` that holds it. */
async function resume(): Promise<void> {
  const qmp = new Peer(QMP_FD, qmpPath, '{"execute":"qmp_capabilities"}\n');
  let count = 0;
  const execute = (command: string) => {
    const id = `qmpvault-guard-${process.pid}-${count++}`;
    return qmp.ask(`${JSON.stringify({ execute: command, id })}\n`, (reply) =>
      reply.id === id ? reply : undefined,
    );
  };
  while (qmp.isWorthAsking && dangers.has('paused')) {
    const status = await execute('query-status');
    if (status?.return === undefined) continue;
    if ((status.return as { status?: unknown }).status !== 'paused') break;
    await execute('cont');
  }
  qmp.close();
}

/** An agent's replies have no ids. So each round begins with a number of ours; what comes before that is stale. */
async function thaw(): Promise<void> {
  const channel = new Peer(AGENT_FD, agentPath);
  let sync = process.pid * 1_000;
  let thawed: true | undefined;
  while (channel.isWorthAsking && dangers.has('frozen') && !thawed) {
    const id = sync++;
    let synced = false;
    const commands = [
      { execute: 'guest-sync-delimited', arguments: { id } },
      { execute: 'guest-fsfreeze-thaw' },
      { execute: 'guest-fsfreeze-status' },
    ];
    // 0xFF makes the agent forget half a command that a killed engine left behind.
    const bytes = `\xff${commands.map((command) => `${JSON.stringify(command)}\n`).join('')}`;
    thawed = await channel.ask(bytes, (reply) => {
      synced ||= reply.return === id;
      return synced && reply.return === 'thawed' ? true : undefined;
    });
  }
  channel.close();
}

// A service manager that ends the engine often ends all that it started: the guard's end is that of the pipe.
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => {});

let rest = '';
process.stdin.setEncoding('latin1');
process.stdin.on('data', (chunk: string) => {
  const lines = (rest + chunk).split('\n');
  rest = lines.pop() ?? '';
  lines.forEach(heard);
});
process.stdin.on('error', () => {});
process.stdin.on('close', act);
say('ready');
