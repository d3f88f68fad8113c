/** What goes wrong: each is put at a named step of the engine, and counts only if it happened there. */
import { strict as assert } from 'node:assert';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { until } from '../../src/base/deadline.ts';
import { codeOf } from '../../src/base/errors.ts';
import type { PointId, RunId } from '../../src/base/ids.ts';
import { STEPS, type Step } from '../../src/base/steps.ts';
import { KiB } from '../../src/base/units.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import { children } from '../../src/vault/chain.ts';
import { cli } from '../helpers/cli.ts';
import { growTmpfs, usedBytes } from '../helpers/small-tmpfs.ts';
import { signalIfThere } from '../helpers/temp-dir.ts';
import {
  backUpRunning,
  meetFinished,
  RUN_STEPS,
  type Special,
  settle,
  vault,
  vaultOf,
  type Wishes,
  wishes,
} from './backing-up.ts';
import { chosen, kind, type Outcome, writeOn, writes } from './kind.ts';
import { Tally } from './tally.ts';
import { pointWish, removesOf, settleAfterChange } from './vault-kinds.ts';
import { type ModelVault, NAS_BYTES, VM, type World } from './world.ts';

const runStep = fc.constantFrom(...RUN_STEPS);
const changeStep = fc.nat({ max: 11 });
/** Steps at which the writer is there. */
const writerStep: fc.Arbitrary<Step> = fc.constantFrom(
  'bitmaps',
  'moment',
  'jobs',
  'targets',
  'copying',
  'copied',
);

export const faultKinds = {
  killEngineInBackup: kind({
    weight: 12,
    parameters: fc.record({ wishes, step: runStep, full: fc.boolean(), before: writes(3), after: writes(3) }),
    async perform(world, { wishes, step, full, before, after }) {
      const model = vaultOf(world, wishes.vault);
      await writeOn(world, before);
      const moment = world.contents();
      const args = ['backup', 'vm1', '--qmp', world.vm.qmpSocket, '--full-every', `${wishes.fullEvery}`];
      const wasKilled = await killedAt(world, model, step, full ? [...args, '--full'] : args);
      const point = await newPointIn(world, model);
      if (point !== null) model.points.set(point, moment);
      assert.equal(
        point !== null,
        !wasKilled || step === 'published',
        'there is a point only if it was published',
      );
      if (wasKilled) {
        model.isUnsettled = true;
        for (const run of await journaledRuns(world)) {
          if (!world.vaults.some(({ dead }) => dead.has(run))) model.dead.set(run, moment);
        }
      } else settle(model);
      await until(async () => (await isRunning(world)) || undefined, {
        what: 'the guest to run',
        timeoutMs: 11_000,
      });
      await writeOn(world, after);
      return firedAt(world, step, wasKilled);
    },
  }),

  killEngineInBackupOfStopped: kind({
    weight: 5,
    parameters: fc.record({ vault, step: fc.constantFrom(...STEPS['offline backup']) }),
    async perform(world, { vault, step }) {
      const model = vaultOf(world, vault);
      const moment = world.contents();
      await world.vm.quit();
      const images = world.attached.flatMap((disk) => [
        '--disk',
        `${disk.spec.name}=${world.imageOf(disk).path}`,
      ]);
      const wasKilled = await killedAt(world, model, step, ['backup', 'vm1', '--full-every', '6', ...images]);
      await world.startVm();
      const point = await newPointIn(world, model);
      if (point !== null) model.points.set(point, moment);
      assert.equal(
        point !== null,
        !wasKilled || step === 'published',
        'there is a point only if it was published',
      );
      if (wasKilled) model.isUnsettled = true;
      else settle(model);
      return firedAt(world, step, wasKilled);
    },
  }),

  killEngineInDelete: kind({
    weight: 9,
    parameters: fc.record({
      wish: pointWish,
      how: fc.constantFrom('keep', 'keep', 'delete'),
      step: changeStep,
    }),
    async perform(world, { wish, how, step }) {
      const model = vaultOf(world, wish.vault);
      const point = chosen([...model.points.keys()], wish.point);
      if (point === undefined) return 'passed';
      const removes = (await removesOf(world, model, point, how)) ?? [];
      const option = how === 'keep' ? '--keep-descendants' : '--with-descendants';
      const merges = how === 'keep' && (await hasChildren(world, model, point));
      return killInChange(world, model, { removes, step: chosenStep(step, merges) }, [
        'delete',
        'vm1',
        point,
        option,
      ]);
    },
  }),

  killEngineInPrune: kind({
    weight: 5,
    parameters: fc.record({ vault, keepLast: fc.integer({ min: 1, max: 5 }), step: changeStep }),
    async perform(world, { vault, keepLast, step }) {
      const model = vaultOf(world, vault);
      if (model.points.size === 0) return 'passed';
      const removes = [...model.points.keys()].slice(0, -keepLast);
      if (removes.length === 0) return 'passed';
      return killInChange(world, model, { removes, step: chosenStep(step, true) }, [
        'prune',
        'vm1',
        '--keep-last',
        `${keepLast}`,
      ]);
    },
  }),

  killVm: kind({
    weight: 4,
    parameters: fc.record({ flush: fc.boolean() }),
    async perform(world, { flush }) {
      if (flush) for (const { spec } of world.attached) await world.vm.flush(spec.name);
      await world.vm.kill();
      if (!flush) await takeOver(world);
      await world.startVm();
      return 'done';
    },
  }),

  killVmInBackup: kind({
    weight: 4,
    parameters: fc.record({ wishes, step: runStep, before: writes(3) }),
    async perform(world, { wishes, step, before }) {
      await writeOn(world, before);
      let fired = false;
      const outcome = await attempt(world, wishes, ['vm-lost'], {
        at: async (reached) => {
          if (reached !== step || fired) return;
          fired = true;
          await world.vm.kill();
          await takeOver(world);
        },
      });
      assert.equal(fired || step === 'stopped' || step === 'inserted', true, `${step} was reached`);
      if (fired) {
        await world.startVm();
        // Once it is out of the VM, a run does without it.
        if (outcome === null) assert.ok(['synced', 'publish', 'published'].includes(step), step);
        vaultOf(world, wishes.vault).isUnsettled = true;
      }
      return firedAt(world, step, fired);
    },
  }),

  killWriter: kind({
    weight: 4,
    parameters: fc.record({ wishes, step: writerStep, before: writes(3) }),
    perform: (world, { wishes, step, before }) =>
      signalWriter(world, { wishes, step, before, signal: 'SIGKILL' }),
  }),

  stopWriter: kind({
    weight: 4,
    parameters: fc.record({ wishes, step: writerStep, before: writes(3) }),
    perform: (world, { wishes, step, before }) =>
      signalWriter(world, { wishes, step, before, signal: 'SIGSTOP' }),
  }),

  cancelBackup: kind({
    weight: 4,
    parameters: fc.record({ wishes, step: runStep, before: writes(3) }),
    async perform(world, { wishes, step, before }) {
      await writeOn(world, before);
      const controller = new AbortController();
      let fired = false;
      await attempt(world, wishes, ['cancelled'], {
        signal: controller.signal,
        at: async (reached) => {
          if (reached !== step) return;
          fired = true;
          controller.abort();
        },
      });
      return firedAt(world, step, fired);
    },
  }),

  fillVaultInBackup: kind({
    weight: 5,
    parameters: fc.record({
      wishes,
      full: fc.boolean(),
      freeKiB: fc.integer({ min: 0, max: 1500 }),
      before: writes(4),
    }),
    async perform(world, { wishes, full, freeKiB, before }) {
      await writeOn(world, before);
      const failed = await whileFull(world, freeKiB, async () => {
        return (await attempt(world, wishes, ['vault-full'], { full })) !== null;
      });
      return failed ? 'done' : 'passed';
    },
  }),

  fillVaultInDelete: kind({
    weight: 5,
    parameters: fc.record({ wish: pointWish, freeKiB: fc.integer({ min: 0, max: 3000 }) }),
    async perform(world, { wish, freeKiB }) {
      const model = vaultOf(world, wish.vault);
      const point = chosen([...model.points.keys()], wish.point);
      if (point === undefined) return 'passed';
      const removes = (await removesOf(world, model, point, 'keep')) ?? [];
      const failed = await whileFull(world, freeKiB, async () => {
        try {
          await deletePoint(world.engine, model.vault, { vm: VM, point, descendants: 'keep' });
          settleAfterChange(model, removes);
          return false;
        } catch (error) {
          if (codeOf(error) !== 'vault-full') throw error;
          doubt(model, removes);
          return true;
        }
      });
      return failed ? 'done' : 'passed';
    },
  }),

  /** And is mounted somewhere else when the run has failed. */
  moveVaultInBackup: kind({
    weight: 4,
    parameters: fc.record({ wishes, step: runStep, before: writes(2) }),
    async perform(world, { wishes, step, before }) {
      const model = vaultOf(world, wishes.vault);
      await writeOn(world, before);
      let fired = false;
      const error = await attempt(
        world,
        wishes,
        ['vault-away', 'vault-unreadable', 'lease-lost', 'run-failed', 'image-tool-failed', 'image-invalid'],
        {
          at: async (reached) => {
            if (reached !== step || fired) return;
            fired = true;
            await world.moveVault(model);
          },
        },
      );
      if (fired) {
        model.isUnsettled = true;
        // To other processes the lease that could not be released lasts out its term.
        await (await world.folder(model).acquireLease({ what: 'a look', leaveChange: true })).release();
      }
      if (fired && error === null) assert.equal(step, 'published');
      return firedAt(world, step, fired);
    },
  }),
};

/** A backup that may fail, but only so. @returns the error */
async function attempt(
  world: World,
  wishes: Wishes,
  codes: readonly string[],
  special: Special,
): Promise<unknown> {
  try {
    await backUpRunning(world, wishes, special);
    return null;
  } catch (error) {
    if (!codes.includes(codeOf(error))) throw error;
    Tally.count(world.tally.ends, codeOf(error));
    return error;
  }
}

interface WriterSignal {
  readonly wishes: Wishes;
  readonly step: Step;
  readonly before: Parameters<typeof writeOn>[1];
  readonly signal: 'SIGKILL' | 'SIGSTOP';
}

async function signalWriter(world: World, { wishes, step, before, signal }: WriterSignal): Promise<Outcome> {
  await writeOn(world, before);
  let fired = false;
  await attempt(world, wishes, ['writer-failed', 'run-failed', 'run-stalled', 'qmp-command'], {
    noProgressMs: 500,
    at: async (reached) => {
      if (reached !== step || fired) return;
      for (const pid of await writers(world)) {
        fired = true;
        signalIfThere(pid, signal);
      }
    },
  });
  return firedAt(world, step, fired);
}

async function writers({ engine }: World): Promise<number[]> {
  const folders = await readdir(engine.runtimeDir).catch(() => []);
  const pids = await Promise.all(
    folders.map((folder) => readFile(join(engine.runtimeDir, folder, 'pid'), 'latin1').catch(() => '')),
  );
  return pids.filter((pid) => pid !== '').map((pid) => Number(pid.split(' ')[0]));
}

/** Those of a delete that merges nothing come first. */
function chosenStep(choice: number, merges: boolean): Step {
  const [plain, merging] = [STEPS.change.filter((step) => !MERGING.has(step)), STEPS.change];
  return chosen<Step>(merges ? merging : plain, choice) ?? 'delete-journal';
}

const MERGING = new Set<Step>(STEPS.change.slice(1, -2));

async function hasChildren(world: World, model: ModelVault, id: PointId): Promise<boolean> {
  return children((await world.folder(model).points()).points, id).length > 0;
}

async function killInChange(
  world: World,
  model: ModelVault,
  { removes, step }: { removes: readonly PointId[]; step: Step },
  command: readonly string[],
): Promise<Outcome> {
  const wasKilled = await killedAt(world, model, step, command);
  if (wasKilled) doubt(model, removes);
  else settleAfterChange(model, removes);
  return firedAt(world, step, wasKilled);
}

/** The engine as a process that kills itself at a step. @returns whether it came there; else it ended in order */
async function killedAt(
  world: World,
  { vault }: ModelVault,
  step: Step,
  command: readonly string[],
): Promise<boolean> {
  const args = [...command, '--vault', vault.path, '--qemu-bin', world.vm.bin];
  const { signal, stderr, stdout, exitCode } = await cli(world, args, { QMPVAULT_STOP_AT: `${step}:kill` });
  const wasKilled = signal === 'SIGKILL';
  assert.equal(wasKilled, stderr.includes(`step ${step}`), `killed at ${step}, and only there: ${stderr}`);
  if (!wasKilled)
    assert.equal(exitCode, 0, `${command.join(' ')} ended with ${exitCode}: ${stdout}${stderr}`);
  return wasKilled;
}

function doubt(model: ModelVault, removes: readonly PointId[]): void {
  model.isUnsettled = true;
  for (const id of removes) model.doubtful.add(id);
}

/** @returns what `act` does, with so much left in the vaults' filesystem while it does it */
async function whileFull<T>({ nas }: World, freeKiB: number, act: () => Promise<T>): Promise<T> {
  growTmpfs(nas, (await usedBytes(nas)) + freeKiB * KiB);
  try {
    return await act();
  } finally {
    growTmpfs(nas, NAS_BYTES);
  }
}

async function newPointIn(world: World, model: ModelVault): Promise<PointId | null> {
  await meetFinished(world, model);
  const { points } = await world.folder(model).points();
  return points.find(({ id }) => !model.points.has(id))?.id ?? null;
}

async function journaledRuns({ engine }: World): Promise<RunId[]> {
  const names = await readdir(join(engine.stateDir, 'runs')).catch(() => []);
  return names.flatMap((name) => (name.endsWith('.json') ? [name.slice(0, -'.json'.length) as RunId] : []));
}

async function isRunning({ vm }: World): Promise<boolean> {
  const { status } = (await vm.qmp.execute('query-status')) as { status: string };
  return status === 'running';
}

/** After a kill the disks hold what reached the images: nobody can have relied on the rest. */
async function takeOver(world: World): Promise<void> {
  for (const disk of world.attached) disk.content = await world.read(disk.spec.name);
}

function firedAt(world: World, step: Step, fired: boolean): Outcome {
  if (fired) Tally.count(world.tally.steps, step);
  return fired ? 'done' : 'passed';
}
