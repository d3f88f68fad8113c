/** Between an engine and the real guest agent: one command's reply is late, missing, wrong or endless, or nobody hears it. */
import net from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type Teardown, tempDir } from './temp-dir.ts';

export interface AgentFault {
  /** The first command of this name. */
  readonly command: string;
  /**
   * `late`: it is done, and its reply comes when the engine has given up on it and says something else.
   * `unanswered`: it is done; there is no reply. `unheard`: it is not even done. `wrong`: it is done, and what comes in the place
   * of its reply is none. `endless`: it is done, and then there is no end of what comes.
   */
  readonly how: 'late' | 'unanswered' | 'unheard' | 'wrong' | 'endless';
}

export interface UnreliableAgent {
  readonly path: string;
  /** Whether the fault has happened. */
  readonly fired: boolean;
  /** How long the engine said nothing after it; null: it has not spoken since. */
  readonly waitedMs: number | null;
}

export async function unreliableAgent(
  t: Teardown,
  agentSocket: string,
  { command, how }: AgentFault,
): Promise<UnreliableAgent> {
  const path = join(tempDir(t), 'agent.sock');
  const agent: { path: string; fired: boolean; waitedMs: number | null } = {
    path,
    fired: false,
    waitedMs: null,
  };
  let firedAt = 0;
  const server = net.createServer((engine) => {
    const real = net.connect(agentSocket);
    /** What the agent says after the command, until the engine speaks again. */
    let held: string[] | null = null;
    real.setEncoding('latin1').on('data', (text: string) => {
      if (held === null) engine.write(text, 'latin1');
      else if (how === 'wrong') engine.write('{"return": {"frozen": "perhaps"}}\n');
      else if (how === 'endless') flood(engine, 'x');
      else held.push(text);
    });
    // latin1 keeps the 0xFF before guest-sync-delimited.
    const lines = createInterface({ input: engine.setEncoding('latin1') }).on('error', () => {});
    lines.on('line', (line) => {
      if (how === 'late' && held !== null) engine.write(held.join(''), 'latin1');
      held = null;
      if (agent.fired) agent.waitedMs ??= performance.now() - firedAt;
      if (!agent.fired && line.includes(`"${command}"`)) {
        agent.fired = true;
        firedAt = performance.now();
        held = [];
        if (how === 'unheard') return;
      }
      real.write(`${line}\n`, 'latin1');
    });
    for (const [one, other] of [
      [engine, real],
      [real, engine],
    ] as const) {
      one.on('error', () => {}).on('close', () => other.destroy());
    }
  });
  t.teardown(() => server.close());
  const { promise, resolve } = Promise.withResolvers<void>();
  server.listen(path, resolve);
  await promise;
  return agent;
}

/** As fast as the other side reads. */
export function flood(socket: net.Socket, what: string): void {
  const chunk = what.repeat(Math.ceil(65536 / what.length));
  const pour = () => {
    while (!socket.destroyed && socket.write(chunk));
  };
  socket.on('drain', pour);
  pour();
}
