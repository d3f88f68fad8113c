/** What every command works with: where it speaks, what stops it, and the engine made from options and environment. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { Engine } from '../backup/engine.ts';
import { QmpvaultError } from '../base/errors.ts';
import type { Interruption } from '../base/interruption.ts';
import { LOG_LEVELS, type Log, type LogLevel } from '../base/log.ts';
import { type Places, placesFrom } from '../base/places.ts';
import { stepsFromEnvironment } from '../base/steps.ts';
import { VERSION } from '../base/version.ts';
import { type QemuTools, qemuTools } from '../image/tools.ts';
import { type OperationName, type Params, type Progress, perform, type Result } from '../operations/index.ts';
import type { Output } from './output.ts';
import type { Surroundings } from './surroundings.ts';

/** The options that stand before or behind any command. */
interface GlobalOptions {
  readonly verbose?: boolean;
  readonly qemuBin?: string;
}

interface Doing<N extends OperationName> {
  /** In words, for whoever interrupts it: `the backup of web1`. */
  readonly doing: string;
  readonly onProgress?: (progress: Progress) => void;
  /** Of one that lasts until it is interrupted. */
  readonly onReady?: (result: Result<N>) => void;
}

export class Shell {
  readonly output: Output;
  readonly interruption: Interruption;
  readonly #surroundings: Surroundings;
  readonly #places: Places;

  constructor(surroundings: Surroundings, output: Output, interruption: Interruption) {
    this.#surroundings = surroundings;
    this.output = output;
    this.interruption = interruption;
    this.#places = placesFrom(surroundings.env, surroundings.isRoot);
  }

  /**
   * Does what a command asks for, in this process.
   * @param command of which the options `--vault`, `--scratch` and the global ones count
   * @throws what the operation throws
   */
  perform<N extends OperationName>(
    command: Command,
    name: N,
    params: Omit<Params<N>, 'vault'>,
    { doing, onProgress, onReady }: Doing<N>,
  ): Promise<Result<N>> {
    this.interruption.doing(doing);
    const { vault } = command.opts<{ vault?: string }>();
    const { signal } = this.interruption;
    return perform(name, { ...(vault === undefined ? {} : { vault }), ...params } as unknown as Params<N>, {
      engine: this.#engine(command),
      signal,
      onProgress,
      onReady: onReady as ((result: object) => void) | undefined,
    });
  }

  #tools(command: Command): QemuTools {
    const dir =
      command.optsWithGlobals<GlobalOptions>().qemuBin ?? this.#surroundings.env['QMPVAULT_QEMU_BIN'];
    return qemuTools(dir ? resolve(dir) : undefined);
  }

  #engine(command: Command): Engine {
    const { scratch } = command.opts<{ scratch?: string }>();
    return {
      ...this.#places,
      ...(scratch === undefined ? {} : { scratchDir: scratch }),
      tools: this.#tools(command),
      version: VERSION,
      log: this.#log(command),
      reachStep: stepsFromEnvironment(this.#surroundings.env),
    };
  }

  #log(command: Command): Log {
    const { verbose } = command.optsWithGlobals<GlobalOptions>();
    return this.#surroundings.openLog(verbose ? 'info' : logLevel(this.#surroundings.env['QMPVAULT_LOG']));
  }
}

/** @throws usage */
function logLevel(wish: string | undefined): LogLevel {
  const level = LOG_LEVELS.find((level) => level === (wish || 'warn'));
  if (level !== undefined) return level;
  throw new QmpvaultError('usage', `QMPVAULT_LOG is '${wish}': it takes ${LOG_LEVELS.join(', ')}`);
}
