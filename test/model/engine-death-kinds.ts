/** The engine is killed, as a process of its own, at a named step: whatever is left is put right by the next one. */
import { strict as assert } from 'node:assert';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { until } from '../../src/base/deadline.ts';
import type { PointId, RunId } from '../../src/base/ids.ts';
import { STEPS, type Step } from '../../src/base/steps.ts';
import { children } from '../../src/vault/chain.ts';
import { cli } from '../helpers/cli.ts';
import { meetFinished, runStep, settle, vault, vaultOf, wishes } from './backing-up.ts';
import { chosen, kind, type Outcome, writeOn, writes } from './kind.ts';
import { doubt, firedAt } from './trouble.ts';
import { pointWish, removesOf, settleAfterChange } from './vault-kinds.ts';
import type { ModelVault, World } from './world.ts';

const changeStep = fc.nat({ max: 11 });

export const engineDeathKinds = {
  killEngineInBackup: kind({
    weight: 10,
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
    weight: 8,
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
    weight: 10,
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
};

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
