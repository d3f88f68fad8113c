/**
 * The protocol as a state machine: values in, effects out. It owns the ids and knows which command is waiting,
 * sent, or given up; it knows no socket, no clock and no promise.
 */
import { randomBytes } from 'node:crypto';
import { QmpCommandError, QmpError, type QmpErrorCode } from './errors.ts';
import { classify, type Message, type QmpEvent, type QmpVersion } from './message.ts';

export type SessionState = 'greeting' | 'negotiating' | 'ready' | 'closed';

const NEXT: Readonly<Record<SessionState, readonly SessionState[]>> = {
  greeting: ['negotiating', 'closed'],
  negotiating: ['ready', 'closed'],
  ready: ['closed'],
  closed: [],
};

/**
 * With the 8th in-band command in its queue QEMU stops reading the socket (QMP_REQ_QUEUE_LEN_MAX, monitor/qmp.c),
 * so that it does not even see the `exec-oob` which is to free a hung main loop (5.2, 7.2 and 11.1 alike). Commands
 * that timed out stay in that queue. So no more than this many are ever without a reply; the rest waits here.
 */
export const IN_BAND_LIMIT = 7;

/** One command; the object itself is its identity between the session and its owner. */
export interface Call {
  readonly command: string;
  readonly args: Readonly<Record<string, unknown>> | undefined;
  /** Execute out of band (`exec-oob`): QEMU then answers even while its main loop hangs. */
  readonly oob: boolean;
}

export type Outcome =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly error: QmpError };

export type Effect =
  | { readonly kind: 'send'; readonly value: unknown }
  | { readonly kind: 'greeted'; readonly version: QmpVersion; readonly oob: boolean }
  | { readonly kind: 'ready' }
  | { readonly kind: 'settle'; readonly call: Call; readonly outcome: Outcome }
  | { readonly kind: 'event'; readonly event: QmpEvent }
  | { readonly kind: 'fail'; readonly error: QmpError };

interface Sent {
  readonly call: Call;
  givenUp: boolean;
}

type Greeting = Extract<Message, { kind: 'greeting' }>;
type Reply = Extract<Message, { kind: 'return' | 'error' }>;

const NEGOTIATION = 'qmp_capabilities';

export class Session {
  #state: SessionState = 'greeting';
  readonly #waiting: Call[] = [];
  readonly #sent = new Map<string, Sent>();
  /** Random, so that a reply meant for an earlier client of the same chardev is never taken for ours. */
  readonly #prefix = `${randomBytes(6).toString('base64url')}-`;
  #count = 0;

  get state(): SessionState {
    return this.#state;
  }

  /** A value has arrived. */
  received(value: unknown): Effect[] {
    if (this.#state === 'closed') return [];
    const message = classify(value);
    switch (message.kind) {
      case 'invalid':
        return this.#fail(message.reason);
      case 'greeting':
        return this.#greeted(message);
      case 'event':
        // One that came with the end of the previous client's connection is not for our listeners, see #foreign().
        return this.#state === 'greeting' ? [] : [{ kind: 'event', event: message.event }];
      case 'return':
      case 'error':
        return this.#replied(message);
    }
  }

  /** Sends the command, or keeps it until it may be sent. */
  submit(call: Call): Effect[] {
    if (this.#state === 'closed') return [notSent(call, null)];
    this.#waiting.push(call);
    return this.#sendWaiting();
  }

  /**
   * Nobody waits for this command any more. If it was sent, its late reply will be dropped.
   * @returns whether it was sent, and so may have happened
   */
  giveUp(call: Call): boolean {
    const index = this.#waiting.indexOf(call);
    if (index >= 0) {
      this.#waiting.splice(index, 1);
      return false;
    }
    for (const sent of this.#sent.values()) if (sent.call === call) sent.givenUp = true;
    return true;
  }

  /** The connection has ended, for this reason if it was not by our own wish. */
  ended(reason: QmpError | null): Effect[] {
    if (this.#state === 'closed') return [];
    this.#enter('closed');
    const effects: Effect[] = [];
    for (const { call, givenUp } of this.#sent.values()) {
      if (!givenUp && call.command !== NEGOTIATION) effects.push(outcomeUnknown(call, reason));
    }
    effects.push(...this.#waiting.map((call) => notSent(call, reason)));
    this.#sent.clear();
    this.#waiting.length = 0;
    return effects;
  }

  #greeted({ version, capabilities }: Greeting): Effect[] {
    if (this.#state !== 'greeting') return this.#fail('a second greeting');
    this.#enter('negotiating');
    const oob = capabilities.includes('oob');
    const args = oob ? { enable: ['oob'] } : undefined;
    return [{ kind: 'greeted', version, oob }, this.#send({ command: NEGOTIATION, args, oob: false })];
  }

  #replied(reply: Reply): Effect[] {
    const sent = typeof reply.id === 'string' ? this.#sent.get(reply.id) : undefined;
    if (!sent) return this.#foreign(reply);
    this.#sent.delete(String(reply.id));
    if (this.#state === 'negotiating') return this.#negotiated(reply);

    const effects: Effect[] = [];
    if (!sent.givenUp)
      effects.push({ kind: 'settle', call: sent.call, outcome: outcomeOf(reply, sent.call) });
    effects.push(...this.#sendWaiting());
    return effects;
  }

  /**
   * A command of the previous client that was running when it left is answered to us, before our negotiation (5.2,
   * 7.2 and 11.1 alike): so it goes for an engine that comes back after a crash, or after one that did not wait for
   * the schema. While a long reply is written out the greeting waits for the monitor's lock and comes after it (7.2
   * and 11.1, one to four connections in 100). Once negotiated, all that may come is ours; a reply without an id
   * then means that QEMU could not parse what we sent.
   */
  #foreign(reply: Reply): Effect[] {
    if (this.#state === 'greeting' || this.#state === 'negotiating') return [];
    const told = reply.kind === 'error' ? `: ${reply.description}` : '';
    return this.#fail(`a reply to a command that was never sent${told}`);
  }

  #negotiated(reply: Reply): Effect[] {
    if (reply.kind === 'error') return this.#fail(`${NEGOTIATION} refused: ${reply.description}`);
    this.#enter('ready');
    return [{ kind: 'ready' }, ...this.#sendWaiting()];
  }

  #sendWaiting(): Effect[] {
    const effects: Effect[] = [];
    if (this.#state !== 'ready') return effects;
    let inBand = this.#sent.values().reduce((count, { call }) => count + (call.oob ? 0 : 1), 0);
    for (const call of [...this.#waiting]) {
      if (!call.oob && inBand >= IN_BAND_LIMIT) continue;
      if (!call.oob) inBand += 1;
      this.#waiting.splice(this.#waiting.indexOf(call), 1);
      effects.push(this.#send(call));
    }
    return effects;
  }

  #send(call: Call): Effect {
    this.#count += 1;
    const id = `${this.#prefix}${this.#count}`;
    this.#sent.set(id, { call, givenUp: false });
    const verb = call.oob ? 'exec-oob' : 'execute';
    return { kind: 'send', value: { [verb]: call.command, arguments: call.args, id } };
  }

  #fail(reason: string): Effect[] {
    const error = new QmpError('qmp-protocol', `the peer does not speak QMP: ${reason}`, {
      details: { state: this.#state },
    });
    return [...this.ended(error), { kind: 'fail', error }];
  }

  #enter(state: SessionState): void {
    if (!NEXT[this.#state].includes(state)) {
      throw new QmpError('qmp-protocol', `a session cannot go from ${this.#state} to ${state}`);
    }
    this.#state = state;
  }
}

function outcomeOf(reply: Reply, { command }: Call): Outcome {
  return reply.kind === 'return'
    ? { ok: true, value: reply.value }
    : { ok: false, error: new QmpCommandError(command, reply.class, reply.description) };
}

function outcomeUnknown(call: Call, cause: QmpError | null): Effect {
  const message = `the connection ended before QEMU replied to ${call.command}: it may have happened or not`;
  return unanswered(call, 'qmp-outcome-unknown', message, cause);
}

function notSent(call: Call, cause: QmpError | null): Effect {
  return unanswered(call, 'qmp-closed', `${call.command} was not sent: the connection is closed`, cause);
}

function unanswered(call: Call, code: QmpErrorCode, message: string, cause: QmpError | null): Effect {
  const details = { command: call.command };
  const error = new QmpError(code, message, { details, ...(cause && { cause }) });
  return { kind: 'settle', call, outcome: { ok: false, error } };
}
