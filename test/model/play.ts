/** Plays one sequence against a world of its own, looking at everything after each operation. */
import { CleanupStack } from '../../src/base/cleanup-stack.ts';
import { bounded, throwIfAborted } from '../../src/base/deadline.ts';
import { codeOf, messageOf } from '../../src/base/errors.ts';
import type { QemuVersion } from '../../vm-fixtures/guestless.ts';
import { backUpRunning } from './backing-up.ts';
import { examine } from './examination.ts';
import { isFault, perform, type Sequence } from './operations.ts';
import { Tally } from './tally.ts';
import { World } from './world.ts';

/** A hang is a failure. */
const OPERATION_MS = 180_000;
/** Everything is read again after so many operations. */
const THOROUGH_EVERY = 12;

const FIRST = { vault: 0, fullEvery: 20, during: [] };

export interface PlayOptions {
  readonly qemu: QemuVersion;
  readonly tally?: Tally;
  /** Ends it between two operations. */
  readonly signal?: AbortSignal | undefined;
  /** Called before each operation. */
  readonly onOperation?: (nth: number, kind: string) => void;
}

/** @throws what went wrong, with the operation at which it showed itself */
export async function play(
  { layout, operations }: Sequence,
  { qemu, tally = new Tally(), signal, onOperation }: PlayOptions,
): Promise<void> {
  await using undo = new CleanupStack();
  const t = {
    teardown: (act: () => unknown) => undo.add('a part of the world', async () => void (await act())),
  };
  const world = await World.start(t, qemu, layout, tally);
  let at = 'the beginning';
  try {
    await backUpRunning(world, FIRST);
    for (const [nth, operation] of operations.entries()) {
      at = `operation ${nth + 1} of ${operations.length}, ${operation.kind}`;
      onOperation?.(nth, operation.kind);
      throwIfAborted(signal);
      world.warnings.length = 0;
      const outcome = await bounded(perform(world, operation), { timeoutMs: OPERATION_MS, what: 'its end' });
      const counts =
        outcome === 'passed' ? tally.passed : isFault(operation.kind) ? tally.faults : tally.operations;
      Tally.count(counts, operation.kind);
      await examine(world, { thorough: (nth + 1) % THOROUGH_EVERY === 0 });
    }
    at = 'the end';
    // Whatever is left of the dead is cleared up by the next backup.
    for (const vault of world.vaults.keys()) {
      await backUpRunning(world, { ...FIRST, vault });
      await examine(world);
    }
    await examine(world, { thorough: true });
  } catch (error) {
    const warned = world.warnings.map((warning) => `\n  warned: ${warning}`).join('');
    throw new Error(`QEMU ${qemu}, ${at}: ${codeOf(error)}: ${messageOf(error)}${warned}`, { cause: error });
  }
  tally.sequences += 1;
}
