/** Reads and writes through a VM's devices: QEMU's `qemu-io` by way of the human monitor. */
import type { QmpClient } from '../qmp/index.ts';
import { until } from '../src/base/deadline.ts';
import { FixtureError } from './errors.ts';
import type { QemuProcess } from './qemu-process.ts';

/** Long enough to measure a stall instead of giving up on it. */
const TIMEOUT_MS = 120_000;

export class DeviceIo {
  readonly #qmp: QmpClient;
  readonly #process: QemuProcess;
  /** One command at a time: their output goes to one file, and nothing in it says whose it is. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(qmp: QmpClient, process: QemuProcess) {
    this.#qmp = qmp;
    this.#process = process;
  }

  /**
   * @param expected what a command that succeeded prints
   * @throws FixtureError guest-io, QmpError
   */
  run(qdev: string, command: string, expected = ''): Promise<{ output: string; tookMs: number }> {
    const result = this.#last.then(() => this.#run(qdev, command, expected));
    this.#last = result.catch(() => {});
    return result;
  }

  async #run(qdev: string, command: string, expected: string): Promise<{ output: string; tookMs: number }> {
    this.#process.stderr.read();
    const started = performance.now();
    const line = { 'command-line': `qemu-io -d ${qdev} "${command}"` };
    const reply = await this.#qmp.execute('human-monitor-command', line, { timeoutMs: TIMEOUT_MS });
    // The reply only names a missing device; what qemu-io itself says goes to the VM's stdout.
    let output = this.#process.stdout.read();
    if (command.startsWith('aio_')) output ||= await this.#lateOutput(command);
    const tookMs = performance.now() - started;
    // stderr also holds what QEMU has to say of a backup that fails meanwhile: that is no answer to this command.
    const stderr = this.#process.stderr.read();
    const failed = /failed|invalid|argument/i.test(output) || /^command .* not found$/m.test(stderr);
    if (reply !== '' || failed || !output.includes(expected)) {
      throw new FixtureError('guest-io', `${qdev}: ${command}: ${reply}${output}${stderr}`);
    }
    return { output, tookMs };
  }

  /** What an asynchronous command says after its reply. */
  #lateOutput(command: string): Promise<string> {
    const what = `the end of ${command}`;
    return until(async () => this.#process.stdout.read() || undefined, { what, timeoutMs: TIMEOUT_MS });
  }
}
