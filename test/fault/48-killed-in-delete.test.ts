/** Row 48: the engine is killed at every step of every kind of delete, and in the middle of qemu-img's own work. */
import { chmodSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import t, { type Test } from 'tap';
import type { VmName } from '../../src/base/ids.ts';
import { STEPS } from '../../src/base/steps.ts';
import { KiB, MiB } from '../../src/base/units.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { restorePoint } from '../../src/restore/restore.ts';
import type { Descendants } from '../../src/upkeep/delete-plan.ts';
import type { Vault } from '../../src/vault/vault.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { HandMadeVault, type Write } from '../helpers/hand-made-vault.ts';
import { areSame } from '../helpers/images.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { assertAllPoints, copyVault, type VaultCopy } from '../helpers/upkeep.ts';

const web1 = 'web1' as VmName;

interface Kind {
  readonly what: string;
  readonly point: string;
  readonly wish: Descendants;
  /** That must come up. */
  readonly steps: readonly string[];
}

const KINDS: readonly Kind[] = [
  { what: 'the newest', point: 'p3', wish: 'refuse', steps: ['journal', 'remove', 'close'] },
  {
    what: 'a middle one, by pulling and by committing',
    point: 'p2',
    wish: 'refuse',
    steps: ['journal', 'pull', 'gathered', 'commit', 'switch', 'describe', 'remove', 'close'],
  },
  {
    what: 'a full with two children',
    point: 'p0',
    wish: 'keep',
    steps: ['journal', 'rewrite', 'gathered', 'commit', 'switch', 'describe', 'remove', 'close'],
  },
  {
    what: 'a full with all that needs it',
    point: 'p0',
    wish: 'delete',
    steps: ['journal', 'remove', 'close'],
  },
];

/** p0 <- p1 <- p2 <- p3, and p0 <- q1. Merged with p2, vda of p3 is the smaller layer and vdb the larger one. */
async function tree(t: Test): Promise<HandMadeVault> {
  const made = await HandMadeVault.create(t);
  const p0 = await made.add('p0', { writes: { vda: [[1, 0, 3 * MiB]], vdb: [[2, MiB, MiB]] } });
  const p1 = await made.add('p1', {
    parent: p0,
    writes: { vda: [[3, MiB, 256 * KiB]], vdb: [[4, 0, 64 * KiB]] },
  });
  const p2 = await made.add('p2', {
    parent: p1,
    writes: { vda: [[5, 512 * KiB, 2 * MiB]], vdb: [[0, MiB, 192 * KiB], ...scattered(6, 2 * MiB, 12)] },
  });
  await made.add('p3', {
    parent: p2,
    writes: { vda: scattered(7, MiB, 12), vdb: [[8, 4096, 2 * MiB]] },
  });
  await made.add('q1', { parent: p0, writes: { vda: [[9, 2 * MiB, 64 * KiB]], vdb: [[0, MiB, 128 * KiB]] } });
  return made;
}

function scattered(pattern: number, fromBytes: number, count: number): Write[] {
  return Array.from({ length: count }, (_, i) => [pattern, fromBytes + i * 128 * KiB, 64 * KiB]);
}

t.test('the kinds of delete have all steps of a change between them', async (t) => {
  const walked = new Set(KINDS.flatMap(({ steps }) => steps.map((step) => `delete-${step}`)));
  t.strictSame([...walked].toSorted(), STEPS.change.toSorted());
});

for (const [nth, qemu] of qemuVersions(['7.2', '11.1']).entries()) {
  const bin = qemuBin(qemu);
  // Where nothing is merged no tool of QEMU is at work: once is enough.
  const kinds = KINDS.filter(({ steps }) => nth === 0 || steps.includes('commit'));

  for (const { what, point, wish, steps } of kinds) {
    t.test(`QEMU ${qemu}: killed at every step of deleting ${what}`, async (t) => {
      const made = await tree(t);
      const reached: string[] = [];
      for (let nth = 1; ; nth += 1) {
        const copy = await copyVault(t, made, { bin });
        const { signal, step } = await run(copy, bin, point, wish, nth);
        if (signal === null) break;
        t.equal(signal, 'SIGKILL');
        reached.push(step.replace('delete-', ''));
        await assertReadable(t, made, copy.vault);
        await assertFinished(t, made, copy.vault, nth === 1 ? [] : [point]);
      }
      t.strictSame([...new Set(reached)].toSorted(), steps.toSorted(), reached.join(' '));
    });
  }

  for (const [tool, point] of [
    ['qemu-img commit', 'p2'],
    ['qemu-img rebase', 'p0'],
    ['qemu-storage-daemon --blockdev', 'p2'],
  ] as const) {
    t.test(`QEMU ${qemu}: killed at writes of ${tool}`, async (t) => {
      const made = await tree(t);
      const killed: number[] = [];
      for (const write of [1, 2, 3, 4, 6]) {
        const copy = await copyVault(t, made, { bin });
        const { signal, exitCode } = await run(copy, killedTools(t, bin, tool, write), point, 'keep', 0);
        if (exitCode === 0) continue;
        killed.push(write);
        await assertReadable(t, made, copy.vault);
        // The engine may hear of the tool's end before its own, and undo what can be undone.
        await assertFinished(t, made, copy.vault, signal === null ? [] : [point]);
      }
      t.ok(killed.length > 1, `killed at writes ${killed.join(' ')}`);
    });
  }
}

async function run({ dir, vault }: VaultCopy, bin: string, point: string, wish: string, nth: number) {
  const runner = join(import.meta.dirname, '../helpers/upkeep-runner.ts');
  const args = [runner, vault.path, join(dir, 'state'), join(dir, 'run'), bin, point, wish, String(nth)];
  const { signal, stdout, stderr, exitCode } = await execa(process.execPath, args, { reject: false });
  if (signal === undefined && exitCode !== 0 && !stderr.includes('image-tool-failed'))
    throw new Error(stderr);
  return { signal: signal ?? null, exitCode, step: stdout.trim() };
}

/** Nothing was finished yet, and each point that is listed is restored as it was. */
async function assertReadable(t: Test, made: HandMadeVault, vault: Vault): Promise<void> {
  const { points } = await vault.vm('web1').points();
  const dir = tempDir(t);
  for (const { id } of points) {
    const target = { dir: join(dir, id) };
    const { restored } = await restorePoint(qemuTools(), vault, {
      vm: web1,
      point: id,
      target,
      format: 'raw',
    });
    for (const { disk, path } of restored) {
      t.ok(areSame(path, made.truthFile(id, disk)), `${disk} of ${id} is restored`);
    }
  }
}

/** By the next command that takes the lease. */
async function assertFinished(
  t: Test,
  made: HandMadeVault,
  vault: Vault,
  gone: readonly string[],
): Promise<void> {
  const vm = vault.vm('web1');
  await using _ = await vm.acquireLease({ what: 'the next command' });
  t.equal(await vm.readChange(), null);
  const { points } = await vm.points();
  for (const id of gone)
    t.notOk(
      points.some((point) => point.id === id),
      `${id} is gone`,
    );
  await assertAllPoints(t, made, vm);
  for (const { id, disks } of points) {
    t.strictSame(
      readdirSync(join(vm.path, id)).toSorted(),
      ['manifest.json', ...disks.map(({ file }) => file)].toSorted(),
    );
    for (const { file, storedBytes } of disks) {
      t.equal(storedBytes, statSync(join(vm.path, id, file)).size);
    }
  }
}

/** QEMU's tools, of which one is killed at its nth write to a file, and takes the engine with it. */
function killedTools(t: Test, bin: string, victim: string, write: number): string {
  const dir = tempDir(t);
  const [name = '', first = ''] = victim.split(' ');
  for (const tool of ['qemu-img', 'qemu-storage-daemon']) symlinkSync(join(bin, tool), join(dir, tool));
  rmSync(join(dir, name));
  const inject = `inject=pwrite64,pwritev:signal=KILL:when=${write}`;
  const script = `#!/bin/bash
if [ "$1" != ${first} ]; then exec ${join(bin, name)} "$@"; fi
strace -f -qq -o /dev/null -e trace=pwrite64,pwritev -e ${inject} ${join(bin, name)} "$@"
if [ $? -gt 128 ]; then kill -KILL $PPID; fi
`;
  writeFileSync(join(dir, name), script);
  chmodSync(join(dir, name), 0o755);
  return dir;
}
