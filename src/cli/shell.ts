/** What every command works with: where it speaks, what stops it, and the engine made from options and environment. */
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import type { Engine } from '../backup/engine.ts';
import { codeOf, QmpvaultError } from '../base/errors.ts';
import type { Interruption } from '../base/interruption.ts';
import { LOG_LEVELS, type Log, type LogLevel } from '../base/log.ts';
import { type Places, placesFrom } from '../base/places.ts';
import { stepsFromEnvironment } from '../base/steps.ts';
import { VERSION } from '../base/version.ts';
import { qemuTools } from '../image/tools.ts';
import { type OperationName, type Params, type Progress, perform, type Result } from '../operations/index.ts';
import type { RpcClient } from '../rpc/client.ts';
import type { Output } from './output.ts';
import type { Surroundings } from './surroundings.ts';

/** The options that stand before or behind any command. */
interface GlobalOptions {
  readonly verbose?: boolean;
  readonly socket?: string;
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
   * Does what a command asks for: by the daemon when no vault is named and one answers, else in this process.
   * @param command of which the options `--vault`, `--scratch` and the global ones count
   * @throws what the operation throws; daemon-unreachable, usage when neither a vault nor a daemon is there
   */
  async perform<N extends OperationName>(
    command: Command,
    name: N,
    params: Omit<Params<N>, 'vault'>,
    { doing, onProgress, onReady }: Doing<N>,
  ): Promise<Result<N>> {
    this.interruption.doing(doing);
    const { vault, scratch } = command.opts<{ vault?: string; scratch?: string }>();
    const { signal } = this.interruption;
    if (vault === undefined && !('vault' in params) && !('qmp' in params && params.qmp !== undefined)) {
      if (scratch !== undefined) {
        throw new QmpvaultError(
          'usage',
          'where scratch is kept the daemon decides: with --scratch name --vault too',
        );
      }
      const [{ performRemotely }, client] = await Promise.all([import('./remote.ts'), this.daemon(command)]);
      await using daemon = client;
      return await performRemotely(daemon, name, params, {
        signal,
        onProgress,
        onReady: onReady as ((result: object) => void) | undefined,
      });
    }
    return perform(name, { ...(vault === undefined ? {} : { vault }), ...params } as unknown as Params<N>, {
      engine: this.#engine(command),
      signal,
      onProgress,
      onReady: onReady as ((result: object) => void) | undefined,
    });
  }

  /** Is the daemon, until the command is interrupted. @throws what keeps it from starting */
  async serve(command: Command, wishes: { configFile: string; graceMs: number }): Promise<void> {
    this.interruption.doing('the daemon');
    const { stateDir, runtimeDir } = this.#places;
    await this.#surroundings.serve({
      ...wishes,
      stateDir,
      runtimeDir,
      qemuBin: this.#qemuBin(command) ?? null,
      reachStep: stepsFromEnvironment(this.#surroundings.env),
      signal: this.interruption.signal,
    });
  }

  /** @throws usage when none is named and none answers where it should; daemon-unreachable */
  async daemon(command: Command): Promise<RpcClient> {
    const named =
      command.optsWithGlobals<GlobalOptions>().socket ?? this.#surroundings.env['QMPVAULT_SOCKET'];
    const socket = named ? resolve(named) : join(this.#places.runtimeDir, 'rpc.sock');
    const { RpcClient } = await import('../rpc/client.ts');
    try {
      return await RpcClient.connect(socket, { signal: this.interruption.signal });
    } catch (error) {
      if (named || codeOf(error) !== 'daemon-unreachable') throw error;
      throw new QmpvaultError(
        'usage',
        `no daemon answers on ${socket}: name the vault with --vault DIR to do without one, or the daemon's socket with --socket`,
        { details: { socket }, cause: error },
      );
    }
  }

  #qemuBin(command: Command): string | undefined {
    const dir =
      command.optsWithGlobals<GlobalOptions>().qemuBin ?? this.#surroundings.env['QMPVAULT_QEMU_BIN'];
    return dir ? resolve(dir) : undefined;
  }

  #engine(command: Command): Engine {
    const { scratch } = command.opts<{ scratch?: string }>();
    return {
      ...this.#places,
      ...(scratch === undefined ? {} : { scratchDir: scratch }),
      tools: qemuTools(this.#qemuBin(command)),
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
