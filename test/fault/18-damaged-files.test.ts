/** Row 18: a byte is flipped in a stored file, and whatever else can happen to one: verify names point and disk. */
import { openSync, readSync, renameSync, rmSync, symlinkSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import t, { type Test } from 'tap';
import type { VmName } from '../../src/base/ids.ts';
import { type VerifyRequest, verify } from '../../src/upkeep/verify.ts';
import { isSealedChain } from '../../src/vault/chain.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { upkeepEngine } from '../helpers/upkeep.ts';

const DEEP: VerifyRequest = { vm: 'web1' as VmName, level: 'deep' };

async function verified(t: Test, made: HandMadeVault, request: VerifyRequest = DEEP) {
  const result = await verify(upkeepEngine(t), made.vault, request);
  return { ...result, listing: await made.vault.vm('web1').points() };
}

t.test('damage is found, named with all that it affects, and nothing more is put on top of it', async (t) => {
  const table: {
    what: string;
    hurt: (made: HandMadeVault) => unknown;
    level: 'quick' | 'deep';
    point: string;
    disk: string | null;
    affects: string[];
  }[] = [
    {
      what: 'a byte of data flipped',
      hurt: (made) => flip(made.file('p1', 'vda'), 0x50000 + 100),
      level: 'deep',
      point: 'p1',
      disk: 'vda',
      affects: ['p1', 'p2', 'p3'],
    },
    {
      what: 'an L2 table',
      hurt: (made) => flip(made.file('p2', 'vda'), 0x40000 + 66),
      level: 'quick',
      point: 'p2',
      disk: 'vda',
      affects: ['p2', 'p3'],
    },
    {
      what: 'a manifest',
      hurt: (made) => writeFileSync(join(made.vault.path, 'web1/p2/manifest.json'), '{"format": 1'),
      level: 'quick',
      point: 'p2',
      disk: null,
      affects: ['p3'],
    },
    {
      what: 'a file that is gone',
      hurt: (made) => rmSync(made.file('p1', 'vdb')),
      level: 'quick',
      point: 'p1',
      disk: 'vdb',
      affects: ['p1', 'p2', 'p3'],
    },
    {
      what: 'a link to a file of the host',
      hurt: (made) => rebase(made.file('p3', 'vda'), '/etc/shadow'),
      level: 'quick',
      point: 'p3',
      disk: 'vda',
      affects: ['p3'],
    },
    {
      what: 'a link to anything QEMU can open',
      hurt: (made) => rebase(made.file('p3', 'vda'), 'json:{"driver":"file","filename":"/etc/shadow"}'),
      level: 'quick',
      point: 'p3',
      disk: 'vda',
      affects: ['p3'],
    },
    {
      what: 'a symbolic link that leaves the vault',
      hurt: (made) => {
        renameSync(made.file('p2', 'vdb'), join(made.dir, 'elsewhere'));
        symlinkSync(join(made.dir, 'elsewhere'), made.file('p2', 'vdb'));
      },
      level: 'quick',
      point: 'p2',
      disk: 'vdb',
      affects: ['p2', 'p3'],
    },
    {
      what: 'a loop',
      hurt: (made) => rebase(made.file('p1', 'vda'), '../p3/vda.qcow2'),
      level: 'quick',
      point: 'p1',
      disk: 'vda',
      affects: ['p1', 'p2', 'p3'],
    },
  ];
  for (const { what, hurt, level, point, disk, affects } of table) {
    await t.test(what, async (t) => {
      const made = await HandMadeVault.withChain(t);
      await verified(t, made);
      await hurt(made);
      const { damaged, listing } = await verified(t, made, { ...DEEP, level });
      t.match(damaged, [{ vm: 'web1', point, disk, affects }]);
      t.equal(damaged.length, 1);
      t.ok(isSealedChain(listing.points, listing.points.at(-1)!.id));
    });
  }
});

function flip(path: string, offset: number): void {
  const byte = Buffer.alloc(1);
  const file = openSync(path, 'r+');
  readSync(file, byte, 0, 1, offset);
  writeSync(file, Buffer.from([byte.readUInt8() ^ 0xff]), 0, 1, offset);
}

async function rebase(path: string, link: string): Promise<void> {
  await execa('qemu-img', ['rebase', '-u', '-f', 'qcow2', '-b', link, '-F', 'qcow2', path]);
}
