/** A guest that never stops writing, and notices when it has to wait. */
import { open } from 'node:fs/promises';
import type { Test } from 'tap';
import type { FixtureVm } from '../../vm-fixtures/guestless.ts';

const BLOCK_BYTES = 4096;
const SLOTS = 64;
/** Prime, so that a slot's successive patterns differ for 251 rounds. */
const PATTERNS = 251;

export interface WriteReport {
  readonly count: number;
  readonly worstMs: number;
  /** of a hundred writes, 99 took at most this */
  readonly p99Ms: number;
  /** what the guest would have seen as I/O errors */
  readonly errors: readonly unknown[];
}

/**
 * Write number i goes to slot i mod 64 of the disk with pattern i mod 251 + 1, so that an image shows how many
 * writes it holds.
 */
export class GuestWriter {
  readonly #vm: FixtureVm;
  readonly #disk: string;
  readonly #everyMs: number;
  readonly #spacing: number;
  readonly #errors: unknown[] = [];
  readonly #done: Promise<void>;
  readonly #tookMs: number[] = [];
  #stopped = false;
  #progress = Promise.withResolvers<void>();

  private constructor(vm: FixtureVm, disk: string, everyMs: number) {
    this.#vm = vm;
    this.#disk = disk;
    this.#everyMs = everyMs;
    this.#spacing = Math.floor(vm.disk(disk).sizeBytes / SLOTS / BLOCK_BYTES) * BLOCK_BYTES;
    this.#done = this.#run();
  }

  /** Writes every slot once, then goes on with 4 KiB every few milliseconds until `stop` or the VM's end. */
  static async start(vm: FixtureVm, disk: string, { everyMs = 4 } = {}): Promise<GuestWriter> {
    const writer = new GuestWriter(vm, disk, everyMs);
    await writer.progress(SLOTS);
    return writer;
  }

  get count(): number {
    return this.#tookMs.length;
  }

  /** Waits until so many more writes were completed. */
  async progress(writes = 1): Promise<void> {
    const goal = this.count + writes;
    while (this.count < goal && !this.#stopped) await this.#progress.promise;
  }

  /** Ends after the write under way. */
  async stop(): Promise<WriteReport> {
    this.#stopped = true;
    await this.#done;
    // The first round also loads what the image's tables and this process still lack.
    const sorted = this.#tookMs.slice(SLOTS).sort((a, b) => a - b);
    return {
      count: this.count,
      worstMs: sorted.at(-1) ?? 0,
      p99Ms: sorted[Math.floor(sorted.length * 0.99)] ?? 0,
      errors: this.#errors,
    };
  }

  /** How many of the writes a raw image holds: all up to one and none after it; `null` when no number fits. */
  async writesIn(rawFile: string): Promise<number | null> {
    const found = await this.#patternsIn(rawFile);
    const holds = (count: number) =>
      found.every((pattern, slot) => {
        const rounds = Math.ceil((count - slot) / SLOTS);
        return pattern === patternOf(slot + (rounds - 1) * SLOTS);
      });
    for (let count = this.count; count >= SLOTS; count -= 1) if (holds(count)) return count;
    return null;
  }

  async #patternsIn(rawFile: string): Promise<(number | null)[]> {
    await using file = await open(rawFile);
    const patterns: (number | null)[] = [];
    for (let slot = 0; slot < SLOTS; slot += 1) {
      const block = Buffer.alloc(BLOCK_BYTES);
      await file.read(block, 0, BLOCK_BYTES, slot * this.#spacing);
      const first = block[0] ?? null;
      patterns.push(block.every((byte) => byte === first) ? first : null);
    }
    return patterns;
  }

  async #run(): Promise<void> {
    while (!this.#stopped && this.#vm.isAlive) {
      const offset = (this.count % SLOTS) * this.#spacing;
      try {
        const tookMs = await this.#vm.write(this.#disk, patternOf(this.count), offset, BLOCK_BYTES);
        this.#tookMs.push(tookMs);
        this.#progress.resolve();
        this.#progress = Promise.withResolvers();
      } catch (error) {
        if (this.#vm.isAlive) this.#errors.push(error);
      }
      if (this.count > SLOTS) await pause(this.#everyMs);
    }
    this.#stopped = true;
    this.#progress.resolve();
  }
}

/** What is demanded of every fault: the guest saw no error, and waited for no write as long as a second. Ends the writer. */
export async function expectUnharmed(t: Test, writer: GuestWriter, what = 'the guest'): Promise<void> {
  const { errors, worstMs } = await writer.stop();
  t.strictSame(errors, [], `${what}: no write failed`);
  t.ok(worstMs < 1_000, `${what}: no write stalled (worst: ${worstMs.toFixed(1)} ms)`);
}

function patternOf(write: number): number {
  return (write % PATTERNS) + 1;
}

/** The guest's own rhythm: it waits for nobody. */
function pause(ms: number): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  setTimeout(resolve, ms);
  return promise;
}
