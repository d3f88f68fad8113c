/** argv to a call, the call to lines on stdout and an exit code; the diagnostics go to the log. */
import type { EventEmitter } from 'node:events';
import type { Writable } from 'node:stream';
import type { Engine } from '../backup/engine.ts';
import { codeOf, errorJson, messageOf, QmpvaultError } from '../base/errors.ts';
import { Interruption } from '../base/interruption.ts';
import type { Log } from '../base/log.ts';
import { CONFIG_FILE, placesFrom } from '../base/places.ts';
import { stepsFromEnvironment } from '../base/steps.ts';
import { VERSION } from '../base/version.ts';
import { qemuTools } from '../image/tools.ts';
import { failureAnswer } from './answer.ts';
import { backUp } from './back-up.ts';
import { type Call, type Mode, NotUnderstood, parseCall, USAGE } from './call.ts';
import { remove } from './delete.ts';
import { rebase } from './rebase.ts';
import type { Site } from './site.ts';
import { stats } from './stats.ts';

export interface Surroundings {
  readonly env: NodeJS.ProcessEnv;
  readonly isRoot: boolean;
  readonly stdout: Writable;
  /** Emits SIGINT and SIGTERM. */
  readonly signals: EventEmitter;
  readonly log: Log;
}

/** What the caller tells apart: done, not done, and not done with something left that a person has to look at. */
const EXIT = { done: 0, failed: 1, notCleanedUp: 20 } as const;

/** Never throws. @param argv without the names of node and script @returns the exit code */
export async function main(argv: readonly string[], surroundings: Surroundings): Promise<number> {
  const { stdout, log, env, signals } = surroundings;
  using interruption = new Interruption(signals, (text) => log.warn({}, text));
  try {
    const call = parseCall(argv, env['QMPVAULT_NAS_MODE'] as Mode | undefined);
    interruption.doing(`the ${call.operation}`);
    log.info(tellable(call), 'called');
    const answer = await carryOut(call, siteOf(surroundings, interruption.signal));
    log.info({ answer }, 'done');
    await write(stdout, answer);
    return EXIT.done;
  } catch (error) {
    if (error instanceof NotUnderstood) {
      await write(stdout, `${error.message}\n${USAGE}`);
      return EXIT.failed;
    }
    log.warn({ error: errorJson(error), stack: error instanceof Error ? error.stack : '' }, messageOf(error));
    await write(stdout, failureAnswer(codeOf(error), error));
    const isLeft =
      codeOf(error) === 'vm-left-unclean' ||
      (error instanceof QmpvaultError && 'notCleanedUp' in error.details);
    return isLeft ? EXIT.notCleanedUp : EXIT.failed;
  }
}

function carryOut(call: Call, site: Site): Promise<string> {
  switch (call.operation) {
    case 'backup':
      return backUp(call, site);
    case 'delete':
      return remove(call, site);
    case 'stats':
      return stats(call, site);
    case 'rebase':
      return rebase(call, site);
  }
}

function siteOf({ env, isRoot, log }: Surroundings, signal: AbortSignal): Site {
  const bin = env['QMPVAULT_QEMU_BIN'];
  const engine: Engine = {
    ...placesFrom(env, isRoot),
    tools: qemuTools(bin || undefined),
    version: VERSION,
    log,
    reachStep: stepsFromEnvironment(env),
  };
  return {
    engine,
    signal,
    configFile: env['QMPVAULT_CONFIG'] || CONFIG_FILE,
  };
}

/** Mount options hold passwords. */
function tellable({ repository, ...call }: Call): object {
  const { options, ...rest } = repository;
  return { ...call, repository: { ...rest, options: options.replace(/\b(pass\w*|secret)=[^,]*/gi, '$1=…') } };
}

/** A caller that went away is no reason to fail. */
async function write(stdout: Writable, text: string): Promise<void> {
  if (text === '') return;
  const { promise, resolve } = Promise.withResolvers<void>();
  stdout.write(text, () => resolve());
  await promise;
}
