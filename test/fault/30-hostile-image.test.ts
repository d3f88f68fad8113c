/** Row 30: somebody else can write to the NAS. Whatever is found there, no file but the chain's own is ever opened. */
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { execaSync } from 'execa';
import t from 'tap';
import type { VmName } from '../../src/base/ids.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { restorePoint } from '../../src/restore/restore.ts';
import { deletePoint } from '../../src/upkeep/delete.ts';
import type { Manifest } from '../../src/vault/manifest.ts';
import { openVault, type Vault } from '../../src/vault/vault.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';
import { type Teardown, tempDir } from '../helpers/temp-dir.ts';
import { upkeepEngine } from '../helpers/upkeep.ts';

/** Nothing may be refused by qemu-img: it must not even be asked. */
const noTools = { ...qemuTools(), qemuImg: '/nonexistent/qemu-img' };

/** A vault of its own for each attack. */
interface Victim {
  readonly dir: string;
  readonly vault: Vault;
  /** The VM's folder. */
  readonly vm: string;
  readonly file: (id: string, disk: string) => string;
}

type Attack = (victim: Victim) => unknown;

const pristine = await HandMadeVault.withChain(t);

async function victimOf(t: Teardown): Promise<Victim> {
  const dir = tempDir(t);
  cpSync(pristine.vault.path, join(dir, 'vault'), { recursive: true });
  const vault = await openVault(join(dir, 'vault'), { memory: pristine.memory });
  const vm = join(vault.path, 'web1');
  return { dir, vault, vm, file: (id, disk) => join(vm, id, `${disk}.qcow2`) };
}

/** Rewrites the link of an image, or the format that it gives for it. */
function relink(file: string, link: string, format = 'qcow2'): void {
  execaSync('qemu-img', ['rebase', '-u', '-f', 'qcow2', '-b', link, '-F', format, file]);
}

/** A link that qemu-img itself would not write. */
function patchLink(file: string, link: string): void {
  const bytes = readFileSync(file);
  const at = Number(bytes.readBigUInt64BE(8));
  bytes.write(link, at, 'utf8');
  bytes.writeUInt32BE(Buffer.byteLength(link), 16);
  writeFileSync(file, bytes);
}

function edit({ vm }: Victim, id: string, change: (manifest: Manifest) => void): void {
  const path = join(vm, id, 'manifest.json');
  const manifest = JSON.parse(readFileSync(path, 'utf8')) as Manifest;
  change(manifest);
  writeFileSync(path, JSON.stringify(manifest));
}

/** Put outside of the vault, where a link of an attacker leads to. */
function outside({ dir, file }: Victim): string {
  const path = join(dir, 'outside.qcow2');
  copyFileSync(file('p1', 'vda'), path);
  return path;
}

const ATTACKS: readonly [name: string, code: string, Attack][] = [
  ['a link to a file of the host', 'link-refused', (v) => relink(v.file('p2', 'vda'), '/etc/shadow', 'raw')],
  ['a link to /etc/shadow as a qcow2', 'link-refused', (v) => relink(v.file('p3', 'vda'), '/etc/shadow')],
  ['json:', 'link-refused', (v) => relink(v.file('p2', 'vda'), 'json:{"driver":"null-co"}')],
  [
    'json: that ends as a link should',
    'link-refused',
    (v) => patchLink(v.file('p2', 'vda'), 'json:{/p1/vda.qcow2'),
  ],
  ['nbd:', 'link-refused', (v) => relink(v.file('p2', 'vda'), 'nbd:localhost:10809')],
  ['nbd+unix:', 'link-refused', (v) => relink(v.file('p2', 'vda'), 'nbd+unix:///x?socket=/tmp/x')],
  [
    'a link to outside of the vault',
    'link-refused',
    (v) => relink(v.file('p2', 'vda'), '../../../outside.qcow2'),
  ],
  ['a link to another VM', 'link-refused', (v) => relink(v.file('p2', 'vda'), '../../web2/p1/vda.qcow2')],
  ['a link to another disk', 'link-refused', (v) => relink(v.file('p2', 'vda'), '../p1/vdb.qcow2')],
  ['a link past the parent', 'link-refused', (v) => relink(v.file('p3', 'vda'), '../p1/vda.qcow2')],
  ['a link read as raw', 'link-refused', (v) => relink(v.file('p2', 'vda'), '../p1/vda.qcow2', 'raw')],
  ['a loop', 'link-refused', (v) => relink(v.file('p2', 'vda'), '../p3/vda.qcow2')],
  [
    'an image that is backed by itself',
    'link-refused',
    (v) => relink(v.file('p2', 'vda'), '../p2/vda.qcow2'),
  ],
  ['a full with a backing file', 'link-refused', (v) => relink(v.file('p1', 'vda'), '/etc/shadow', 'raw')],
  [
    'an increment without one',
    'link-refused',
    (v) => execaSync('qemu-img', ['rebase', '-u', '-f', 'qcow2', '-b', '', v.file('p2', 'vda')]),
  ],
  [
    'data in another file',
    'link-refused',
    (v) => {
      unlinkSync(v.file('p1', 'vda'));
      const data = join(v.dir, 'data');
      execaSync('qemu-img', [
        'create',
        '-q',
        '-f',
        'qcow2',
        '-o',
        `data_file=${data}`,
        v.file('p1', 'vda'),
        '4M',
      ]);
      execaSync('truncate', ['-s', '2M', v.file('p1', 'vda')]);
    },
  ],
  [
    'a symbolic link that leaves the vault',
    'link-refused',
    (v) => {
      const path = outside(v);
      unlinkSync(v.file('p1', 'vda'));
      symlinkSync(path, v.file('p1', 'vda'));
    },
  ],
  [
    'a symbolic link in the place of a point',
    'manifest-invalid',
    (v) => {
      const folder = dirname(v.file('p1', 'vda'));
      renameSync(folder, join(v.dir, 'p1'));
      symlinkSync(join(v.dir, 'p1'), folder);
    },
  ],
  [
    "a symbolic link in the place of the VM's folder",
    'link-refused',
    (v) => {
      renameSync(v.vm, join(v.dir, 'web1'));
      symlinkSync(join(v.dir, 'web1'), v.vm);
    },
  ],
  [
    'a symbolic link to itself',
    'link-refused',
    (v) => {
      unlinkSync(v.file('p1', 'vda'));
      symlinkSync('vda.qcow2', v.file('p1', 'vda'));
    },
  ],
  ['a file that is missing in the middle', 'image-invalid', (v) => unlinkSync(v.file('p2', 'vda'))],
  [
    'a FIFO',
    'image-invalid',
    (v) => {
      unlinkSync(v.file('p2', 'vda'));
      execaSync('mkfifo', [v.file('p2', 'vda')]);
    },
  ],
  [
    'a folder',
    'image-invalid',
    (v) => {
      unlinkSync(v.file('p2', 'vda'));
      mkdirSync(v.file('p2', 'vda'));
    },
  ],
  ['a file that is cut off', 'image-invalid', (v) => truncateSync(v.file('p1', 'vda'), 4 * 65536)],
  ['something else', 'image-invalid', (v) => writeFileSync(v.file('p2', 'vda'), Buffer.alloc(1 << 20, 1))],
  [
    'another virtual size',
    'image-invalid',
    (v) => execaSync('qemu-img', ['resize', '-q', v.file('p1', 'vda'), '8M']),
  ],
  [
    'an encrypted image',
    'image-invalid',
    (v) => {
      const bytes = readFileSync(v.file('p1', 'vda'));
      bytes.writeUInt32BE(2, 32);
      writeFileSync(v.file('p1', 'vda'), bytes);
    },
  ],
  [
    'an image that QEMU has marked as corrupt',
    'image-invalid',
    (v) => {
      const bytes = readFileSync(v.file('p1', 'vda'));
      bytes.writeBigUInt64BE(2n, 72);
      writeFileSync(v.file('p1', 'vda'), bytes);
    },
  ],
  [
    'a manifest that is missing in the middle',
    'manifest-invalid',
    (v) => rmSync(join(v.vm, 'p2', 'manifest.json')),
  ],
  [
    'a manifest that is damaged',
    'manifest-invalid',
    (v) => edit(v, 'p1', (manifest) => Object.assign(manifest, { disks: [] })),
  ],
  [
    'manifests in a loop',
    'manifest-invalid',
    (v) => edit(v, 'p2', (manifest) => Object.assign(manifest, { parent: 'p3' })),
  ],
  [
    'a manifest that names a file elsewhere',
    'manifest-invalid',
    (v) =>
      edit(v, 'p3', ({ disks }) => {
        Object.assign(disks[0]!, { file: '../../../outside.qcow2' });
      }),
  ],
];

for (const [name, code, attack] of ATTACKS) {
  t.test(`${name} is refused before anything is opened or written`, async (t) => {
    const victim = await victimOf(t);
    outside(victim);
    await attack(victim);
    const dir = join(victim.dir, 'out');
    const request = { vm: 'web1' as VmName, point: 'p3', target: { dir }, format: 'raw' as const };
    await t.rejects(restorePoint(noTools, victim.vault, request), { code });
    t.notOk(existsSync(dir));
  });
}

t.test('no point is merged with one whose link leads elsewhere', async (t) => {
  const links = ['/etc/shadow', '../../../outside.qcow2', 'json:{"driver":"null-co"}', '../p1/vdb.qcow2'];
  for (const victimOfLink of ['p2', 'p3']) {
    for (const link of links) {
      const victim = await victimOf(t);
      outside(victim);
      relink(victim.file(victimOfLink, 'vda'), link, 'raw');
      const engine = { ...upkeepEngine(t), tools: { ...noTools, storageDaemon: '/nonexistent/daemon' } };
      const request = { vm: 'web1' as VmName, point: 'p2', descendants: 'refuse' } as const;
      await t.rejects(
        deletePoint(engine, victim.vault, request),
        { code: 'link-refused' },
        `${victimOfLink}: ${link}`,
      );
      t.ok(existsSync(victim.file('p2', 'vda')), 'it is there as before');
    }
  }
});
