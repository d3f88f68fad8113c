import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import t, { type Test } from 'tap';
import { until } from '../../src/base/deadline.ts';
import type { PointId, VmName } from '../../src/base/ids.ts';
import { MiB } from '../../src/base/units.ts';
import { reachesLongMode } from '../../src/image/accelerator.ts';
import { qemuTools } from '../../src/image/tools.ts';
import type { BootWish } from '../../src/restore/boot-check.ts';
import { type VerifyEngine, verify } from '../../src/upkeep/verify.ts';
import { isSealedChain } from '../../src/vault/chain.ts';
import { guestImage } from '../../vm-fixtures/guest-image.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { bootSector } from '../helpers/bootable.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { processesIn, tempDir } from '../helpers/temp-dir.ts';
import { upkeepEngine } from '../helpers/upkeep.ts';

const web1 = 'web1' as VmName;
const WISH: BootWish = { bus: 'virtio', memoryBytes: 64 * MiB, args: [], timeoutMs: 60_000 };

/** p1 boots, and says so; p2 stands on it and does not, since its first sector is zeroes. */
async function bootable(t: Test): Promise<HandMadeVault> {
  const made = await HandMadeVault.create(t);
  const sector = bootSector(made.dir, '\x1b[32mup\x1b[0m and running');
  const p1 = await made.add('p1', { writes: { vda: [[sector, 0, 512]], vdb: [[7, 0, MiB]] } });
  await made.add('p2', { parent: p1, writes: { vda: [[0, 0, 64 * 1024]], vdb: [] } });
  return made;
}

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  const tools = qemuTools(qemuBin(qemu));

  t.test(
    `QEMU ${qemu}: a point boots or does not, which is written down with what it said and showed`,
    async (t) => {
      const made = await bootable(t);
      const folder = made.vault.vm('web1');
      const engine = upkeepEngine(t, { tools });
      const before = readdirSync(folder.path).map((id) => readFileSync(join(folder.path, id, 'vda.qcow2')));
      const boots = await verify(engine, made.vault, {
        vm: web1,
        point: 'p1',
        level: 'quick',
        boot: { ...WISH, line: /^up and running/ },
      });
      t.match(boots, {
        checked: 1,
        damaged: [],
        warnings: [],
        booted: [{ vm: 'web1', point: 'p1', answer: 'line', what: 'up and running', accelerator: /kvm|tcg/ }],
      });
      t.match(await folder.readVerification(boots.booted[0]!.point), {
        level: 'quick',
        boot: { answer: 'line' },
      });
      t.match(readFileSync(join(folder.path, 'p1/boot.log'), 'latin1'), 'and running');
      const png = readFileSync(join(folder.path, 'p1/boot.png'));
      t.match(png.subarray(0, 8).toString('latin1'), '\x89PNG');

      const dead = await verify(engine, made.vault, {
        vm: web1,
        point: 'p2',
        level: 'quick',
        boot: { ...WISH, timeoutMs: 3_000 },
      });
      t.match(dead, { checked: 1, damaged: [], booted: [{ point: 'p2', answer: null, what: /agent/ }] });
      const { points } = await folder.points();
      t.notOk(isSealedChain(points, points[1]!.id), 'nobody says that anything is damaged');
      t.strictSame(
        ['p1', 'p2'].map((id) => readFileSync(join(folder.path, id, 'vda.qcow2'))),
        before,
        'nothing of it reaches the vault',
      );
      expectNothingLeft(t, engine);
    },
  );

  t.test(
    `QEMU ${qemu}: a Linux finds its root in a point, and gives up where that is destroyed`,
    async (t) => {
      const made = await HandMadeVault.create(t);
      const root = join(made.dir, 'root');
      writeFileSync(root, Buffer.alloc(8 * MiB));
      await execa('/sbin/mkfs.ext4', ['-q', root]);
      const p1 = await made.add('p1', { writes: { root: [[root, 0, 8 * MiB]] }, sizeBytes: 8 * MiB });
      await made.add('p2', { parent: p1, writes: { root: [[0, 0, 64 * 1024]] } });
      const kernel = 'console=ttyS0 root=/dev/nvme0n1 rootfstype=ext4 rootwait panic=-1 mitigations=off';
      const boot: BootWish = {
        ...WISH,
        bus: 'nvme',
        memoryBytes: 160 * MiB,
        line: /EXT4-fs \(nvme0n1\): mounted/,
        args: ['-kernel', guestImage().kernel, '-append', kernel, '-no-reboot'],
      };
      const { booted } = await verify(upkeepEngine(t, { tools }), made.vault, {
        vm: web1,
        level: 'quick',
        boot,
      });
      t.comment(booted.map(({ point, tookMs, what }) => `${point} ${tookMs} ms ${what}`).join('; '));
      t.match(booted, [
        { point: 'p1', answer: 'line' },
        { point: 'p2', answer: null, what: /^it ended before/ },
      ]);
      t.match(readFileSync(join(made.vault.path, 'web1/p2/boot.log'), 'latin1'), 'Unable to mount root fs');
    },
  );
}

t.test(
  'a trial that cannot be made, or is cancelled, leaves nothing behind and says nothing of the point',
  async (t) => {
    const made = await bootable(t);
    const engine = upkeepEngine(t);
    const request = { vm: web1, point: 'p1', level: 'quick' as const };
    const wrong = verify(engine, made.vault, { ...request, boot: { ...WISH, args: ['-bios', '/none'] } });
    await t.rejects(wrong, { code: 'boot-failed', message: /\/none/ });
    expectNothingLeft(t, engine);
    const cancel = new AbortController();
    const waiting = verify(engine, made.vault, { ...request, boot: WISH }, { signal: cancel.signal });
    await until(async () => (processesIn(engine.scratchDir).length > 0 ? true : undefined), {
      what: 'the VM of the trial',
    });
    cancel.abort();
    await t.rejects(waiting, { code: 'cancelled' });
    expectNothingLeft(t, engine);
    t.equal(await made.vault.vm('web1').readVerification('p1' as PointId), null);
  },
);

t.test('an accelerator is tried out', async (t) => {
  const tools = qemuTools();
  t.equal(await reachesLongMode(tools, 'tcg', tempDir(t)), true);
  t.notOk(await reachesLongMode({ ...tools, qemuSystem: '/bin/false' }, 'tcg', tempDir(t)));
});

function expectNothingLeft(t: Test, { runtimeDir, scratchDir }: VerifyEngine): void {
  t.strictSame(
    [runtimeDir, scratchDir].flatMap((dir) => readdirSync(dir)),
    [],
  );
  t.strictSame(processesIn(scratchDir), []);
}
