/**
 * What the operator wants to be done when a run has ended: commands and webhooks. They never hold up a run, and whatever
 * becomes of them is only logged; by the hook's place in the configuration, since an address or an argument may be secret.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { errnoOf } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Config, HookConfig } from '../config/config.ts';
import { runCommand } from '../image/command.ts';
import type { Run } from '../rpc/run.ts';

/** A page for each of a thousand VMs of a NAS that went away must not be a thousand processes. */
const AT_ONCE = 4;
const WAITING_MAX = 1_000;
/** Before a webhook's next attempts. */
const PAUSES_MS = [1_000, 5_000];

interface Call {
  /** `onFailure.0` */
  readonly name: string;
  readonly hook: HookConfig;
  readonly run: Run;
}

export class Hooks {
  readonly #log: Log;
  readonly #pausesMs: readonly number[];
  readonly #waiting: Call[] = [];
  readonly #working = new Set<Promise<void>>();

  constructor({ log, pausesMs = PAUSES_MS }: { log: Log; pausesMs?: readonly number[] }) {
    this.#log = log;
    this.#pausesMs = pausesMs;
  }

  /** @param run as run.get tells it; one that was cancelled calls nobody: who cancelled it knows */
  fire(config: Config['hooks'], run: Run): void {
    const when = run.state === 'succeeded' ? 'onSuccess' : run.state === 'failed' ? 'onFailure' : null;
    if (when === null) return;
    for (const [i, hook] of config[when].entries()) {
      const call = { name: `${when}.${i}`, hook, run };
      if (this.#waiting.length < WAITING_MAX) this.#waiting.push(call);
      else this.#log.warn(aboutCall(call), 'too many hooks wait: this one is not called');
    }
    this.#next();
  }

  /** Resolves when all have been called. */
  async idle(): Promise<void> {
    while (this.#working.size > 0) await Promise.all(this.#working);
  }

  #next(): void {
    while (this.#working.size < AT_ONCE) {
      const call = this.#waiting.shift();
      if (call === undefined) return;
      const work = this.#call(call).finally(() => {
        this.#working.delete(work);
        this.#next();
      });
      this.#working.add(work);
    }
  }

  async #call(call: Call): Promise<void> {
    const { hook, run } = call;
    const failure =
      'command' in hook ? await callCommand(hook, run) : await callWebhook(hook, run, this.#pausesMs);
    if (failure === null) this.#log.info(aboutCall(call), 'hook called');
    else this.#log.warn({ ...aboutCall(call), reason: failure }, 'a hook failed');
  }
}

function aboutCall({ name, run }: Call): object {
  return { hook: name, run: run.id, vm: run.vm };
}

/** @returns what it failed with */
async function callCommand(
  { command, timeoutMs }: Extract<HookConfig, { command: unknown }>,
  run: Run,
): Promise<string | null> {
  const [program = '', ...args] = command;
  const { exitCode, timedOut } = await runCommand([program, ...args], {
    timeoutMs,
    env: environmentOf(run),
    input: `${JSON.stringify(run)}\n`,
  });
  if (timedOut) return `it did not end within ${timeoutMs} ms`;
  if (exitCode === null) return 'it could not be started, or was killed';
  return exitCode === 0 ? null : `exit code ${exitCode}`;
}

/** What there is of it, so that a script of one line needs no JSON. */
function environmentOf(run: Run): Record<string, string> {
  const facts = {
    RUN: run.id,
    WHAT: run.what,
    STATE: run.state,
    CAUSE: run.cause,
    VM: run.vm,
    VAULT: run.vault,
    POINT: run.point,
    ERROR: run.error?.code,
    MESSAGE: run.error?.message,
  };
  return Object.fromEntries(
    // No text of a process's environment can hold a NUL.
    Object.entries(facts).map(([name, value]) => [`QMPVAULT_${name}`, (value ?? '').replaceAll('\0', '')]),
  );
}

/** @returns what its last attempt failed with */
async function callWebhook(
  { webhook, timeoutMs }: Extract<HookConfig, { webhook: unknown }>,
  run: Run,
  pausesMs: readonly number[],
): Promise<string | null> {
  let failure = await post(webhook.reveal(), timeoutMs, run);
  for (const pauseMs of pausesMs) {
    if (failure === null || !failure.mayPass) break;
    await delay(pauseMs);
    failure = await post(webhook.reveal(), timeoutMs, run);
  }
  return failure?.why ?? null;
}

async function post(
  address: string,
  timeoutMs: number,
  run: Run,
): Promise<{ why: string; mayPass: boolean } | null> {
  try {
    const response = await fetch(address, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(run),
      // Where it leads is not what the operator wrote down.
      redirect: 'error',
      signal: AbortSignal.timeout(timeoutMs),
    });
    await response.body?.cancel();
    if (response.ok) return null;
    const mayPass = response.status >= 500 || response.status === 429 || response.status === 408;
    return { why: `the server answered ${response.status}`, mayPass };
  } catch (error) {
    // Its message would hold the address.
    const name = error instanceof Error ? error.name : 'Error';
    return { why: errnoOf(error) ?? name, mayPass: true };
  }
}
