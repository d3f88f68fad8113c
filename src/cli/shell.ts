/** What every command works with: where it speaks, what stops it, and the engine made from options and environment. */
import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { Engine } from '../backup/engine.ts';
import { QmpvaultError } from '../base/errors.ts';
import type { VmName } from '../base/ids.ts';
import type { Log } from '../base/log.ts';
import { stepsFromEnvironment } from '../base/steps.ts';
import { type QemuTools, qemuTools } from '../image/tools.ts';
import { changeFinisher } from '../upkeep/delete.ts';
import { VaultMemory } from '../vault/memory.ts';
import { openVault, type Vault } from '../vault/vault.ts';
import type { VmFolder } from '../vault/vm-folder.ts';
import type { Interruption } from './interruption.ts';
import type { Output } from './output.ts';
import { type Places, placesFrom } from './places.ts';
import { LOG_LEVELS, type LogLevel, type Surroundings } from './surroundings.ts';
import { VERSION } from './version.ts';

/** The options that stand before or behind any command. */
interface GlobalOptions {
  readonly verbose?: boolean;
  readonly qemuBin?: string;
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

  get memory(): VaultMemory {
    return new VaultMemory(this.#places.stateDir);
  }

  /** @param command of those that change points: what a dead process left half done is finished then */
  openVault(path: string, command?: Command): Promise<Vault> {
    const finishChange = command && changeFinisher(this.engine(command));
    return openVault(path, { memory: this.memory, ...(finishChange && { finishChange }) });
  }

  /** @throws vm-unknown, and what openVault throws */
  async openVm(path: string, name: VmName): Promise<VmFolder> {
    const vm = (await this.openVault(path)).vm(name);
    if (await vm.exists()) return vm;
    throw new QmpvaultError('vm-unknown', `the vault ${path} has no VM ${name}`, {
      details: { vault: path, vm: name },
    });
  }

  tools(command: Command): QemuTools {
    const dir =
      command.optsWithGlobals<GlobalOptions>().qemuBin ?? this.#surroundings.env['QMPVAULT_QEMU_BIN'];
    return qemuTools(dir ? resolve(dir) : undefined);
  }

  engine(command: Command, overrides: Partial<Pick<Engine, 'scratchDir'>> = {}): Engine {
    return {
      ...this.#places,
      ...overrides,
      tools: this.tools(command),
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
