/**
 * A worker: one operation of one run, in a process of its own that may hang in the NAS and outlives the daemon. Its
 * argument is its folder, with the task. Whoever connects to its socket is told how far it is, and may say:
 *   {"cancel": "why"}   {"bandwidth": bytes per second, or null}
 * It ends when its outcome is written down durably, whether or not anybody listens.
 */
import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { codeOf, errorJson, messageOf, QmpvaultError } from '../base/errors.ts';
import { stepsFromEnvironment } from '../base/steps.ts';
import { VERSION } from '../base/version.ts';
import { qemuTools } from '../image/tools.ts';
import { type Progress, perform } from '../operations/index.ts';
import { onJsonLines } from './json-lines.ts';
import { type Outcome, readTask, writeOutcome } from './task.ts';

const folder = process.argv[2] ?? '';
const task = await readTask(folder);
// On the disk that scratch may fill: what cannot be logged is not told, and ends nothing.
const logFile = pino.destination({ dest: 2, sync: true });
logFile.on('error', () => {});
const log = pino({ name: 'qmpvault', level: task.logLevel, base: { run: task.run } }, logFile);
const WRITE_AGAIN_MS = 5_000;
const cancellation = new AbortController();
const listeners = new Set<Socket>();
let progress: Progress | null = null;
let ready: object | null = null;
let bandwidth = bandwidthOf(task.params);

const server = createServer((socket) => {
  listeners.add(socket);
  socket.on('error', () => {});
  socket.on('close', () => listeners.delete(socket));
  if (progress !== null) tell(socket, { progress });
  if (ready !== null) tell(socket, { ready });
  onJsonLines<{ cancel?: string; bandwidth?: number | null }>(socket, heed);
});
// A socket that an attempt before this one left behind.
await rm(task.socket, { force: true });
// Nobody else may cancel it. Nothing else is made meanwhile.
const umask = process.umask(0o177);
// Such as EMFILE when somebody connects.
server.on('error', () => {});
server.listen(task.socket);
await once(server, 'listening');
process.umask(umask);

function heed(message: { cancel?: string; bandwidth?: number | null }): void {
  if (message.cancel !== undefined) {
    cancellation.abort(new QmpvaultError('cancelled', message.cancel));
    log.info({ why: message.cancel }, 'cancelled');
  }
  if (message.bandwidth !== undefined) bandwidth = message.bandwidth ?? undefined;
}

/** Who does not read what he is told misses some of it: progress is overtaken anyway. */
function tell(socket: Socket, message: object): void {
  if (socket.writableLength < 65_536) socket.write(`${JSON.stringify(message)}\n`);
}

async function work(): Promise<Outcome> {
  try {
    const result = await perform(task.operation, task.params as never, {
      engine: {
        ...task.places,
        tools: qemuTools(task.qemuBin ?? undefined),
        version: VERSION,
        log,
        reachStep: stepsFromEnvironment(process.env),
      },
      signal: cancellation.signal,
      onProgress: (now) => {
        progress = now;
        for (const socket of listeners) tell(socket, { progress });
      },
      onReady: (result) => {
        ready = result;
        for (const socket of listeners) tell(socket, { ready });
      },
      bandwidth: () => bandwidth,
    });
    return { ok: true, result: result as Record<string, unknown> };
  } catch (error) {
    log.error({ err: error }, messageOf(error));
    return { ok: false, error: errorJson(error) };
  }
}

function bandwidthOf(params: Record<string, unknown>): number | undefined {
  return typeof params['bandwidth'] === 'number' ? params['bandwidth'] : undefined;
}

const outcome = await work();
// A local disk that is full now would make a finished run a lost one.
for (;;) {
  try {
    await writeOutcome(folder, outcome);
    break;
  } catch (error) {
    log.warn({ code: codeOf(error) }, `the outcome cannot be written yet: ${messageOf(error)}`);
    await delay(WRITE_AGAIN_MS);
  }
}
await rm(task.socket, { force: true });
// Not by waiting for the event loop to run empty: it may hang in the NAS.
process.exit(0);
