/** Between an engine and a real QEMU: whatever one says the other hears, until the test cuts in. */
import { once } from 'node:events';
import net from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type Teardown, tempDir } from './temp-dir.ts';

export interface QmpProxy {
  readonly path: string;
  /** Closes the connection to both sides. Clients that come later are served. */
  cut(): void;
}

interface Command {
  readonly execute?: string;
  readonly 'exec-oob'?: string;
  readonly id?: string;
}

/**
 * @param options.onCommand sees each command before QEMU does; what it returns decides: `cut` closes the connection
 *   instead of sending it on, `cut-after` when QEMU has done it, and neither its reply nor an event gets through any
 *   more. Cut as soon as it is sent, QEMU would in most cases drop it unread (m: 24 of 27 times). `unheard`: QEMU never
 *   gets it, and all else goes on.
 */
export async function qmpProxy(
  t: Teardown,
  qmpSocket: string,
  {
    onCommand = () => undefined,
  }: { onCommand?: (command: string) => 'cut' | 'cut-after' | 'unheard' | undefined } = {},
): Promise<QmpProxy> {
  const path = join(tempDir(t), 'proxy.sock');
  const open = new Set<net.Socket>();
  const cut = () => {
    for (const socket of open) socket.destroy();
  };
  const server = net.createServer((engine) => {
    const qemu = net.connect(qmpSocket);
    for (const [one, other] of [
      [engine, qemu],
      [qemu, engine],
    ] as const) {
      open.add(one);
      one
        .on('error', () => {})
        .on('close', () => {
          open.delete(one);
          other.destroy();
        });
    }
    let last: string | undefined;
    linesOf(qemu).on('line', (line) => {
      if (last === undefined) engine.write(`${line}\r\n`);
      else if ((JSON.parse(line) as Command).id === last) cut();
    });
    linesOf(engine).on('line', (line) => {
      const { execute, 'exec-oob': oob, id } = JSON.parse(line) as Command;
      const verdict = onCommand(execute ?? oob ?? '');
      if (verdict === 'cut') return cut();
      if (verdict === 'unheard') return;
      if (verdict === 'cut-after') last = id;
      qemu.write(`${line}\n`);
    });
  });
  t.teardown(() => {
    cut();
    server.close();
  });
  server.listen(path);
  await once(server, 'listening');
  return { path, cut };
}

/** An error of its input is one of the interface too. */
function linesOf(input: net.Socket) {
  return createInterface({ input }).on('error', () => {});
}
