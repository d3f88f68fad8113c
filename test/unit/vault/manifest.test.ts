import * as fc from 'fast-check';
import t from 'tap';
import { codeOf } from '../../../src/base/errors.ts';
import { type BitmapName, type DiskName, newBitmapName, newVaultId } from '../../../src/base/ids.ts';
import { formatManifest, parseManifest } from '../../../src/vault/manifest.ts';
import { diskOf, manifestOf, point } from '../../helpers/vault-files.ts';

const text = (manifest: unknown) => JSON.stringify(manifest);

t.test('a manifest is read as it was written', async (t) => {
  const manifest = manifestOf('p2', {
    parent: point('p1'),
    protected: true,
    disks: [
      diskOf({
        kind: 'incremental',
        sha256: 'a'.repeat(64),
        bitmap: { name: newBitmapName(newVaultId()), pattern: [0, 65536] },
      }),
      diskOf({ name: 'vdb' as DiskName, file: 'vdb.qcow2' }),
    ],
    left: [{ name: 'cd0', why: 'a CD-ROM' }],
  });
  t.same(parseManifest(formatManifest(manifest, 'here'), 'here'), manifest);
});

t.test('members of a later version survive, at every depth', async (t) => {
  const later = { ...manifestOf('p1'), note: 'x', disks: [{ ...diskOf(), zone: 7 }] };
  t.same(parseManifest(text(later), 'here'), later);
});

t.test('a newer format is told apart from damage', async (t) => {
  t.throws(() => parseManifest(text({ format: 2 }), '/nas/p1'), {
    code: 'vault-format',
    details: { path: '/nas/p1', format: 2, known: 1 },
  });
});

t.test('what contradicts itself is refused', async (t) => {
  const twins = [diskOf(), diskOf()];
  const cases: Record<string, object> = {
    'no disks': manifestOf('p1', { disks: [] }),
    'an incremental without a parent': { ...manifestOf('p2', { parent: point('p1') }), parent: null },
    'a full with a parent': { ...manifestOf('p2'), parent: 'p1' },
    'a full with an incremental disk': manifestOf('p1', { disks: [diskOf({ kind: 'incremental' })] }),
    'an incremental of full disks only': { ...manifestOf('p2', { parent: point('p1') }), disks: [diskOf()] },
    'its own parent': manifestOf('p1', { parent: point('p1') }),
    'two disks of one name': manifestOf('p1', { disks: [diskOf(), diskOf({ file: 'b.qcow2' })] }),
    'two disks in one file': manifestOf('p1', { disks: [diskOf(), diskOf({ name: 'vdb' as DiskName })] }),
    twins: manifestOf('p1', { disks: twins }),
    'a file outside': manifestOf('p1', { disks: [diskOf({ file: '../../etc/shadow' })] }),
    'a file that is the manifest': manifestOf('p1', { disks: [diskOf({ file: 'manifest.json' })] }),
    'a parent outside': { ...manifestOf('p2', { parent: point('p1') }), parent: '..' },
    'a foreign bitmap': manifestOf('p1', {
      disks: [diskOf({ bitmap: { name: 'libvirt' as BitmapName, pattern: [] } })],
    }),
    'a negative size': manifestOf('p1', { disks: [diskOf({ virtualSizeBytes: -1 })] }),
    'a size beyond exact numbers': manifestOf('p1', { disks: [diskOf({ virtualSizeBytes: 2 ** 60 })] }),
    'a digest that is none': manifestOf('p1', { disks: [diskOf({ sha256: 'XYZ' })] }),
    'a moment that is none': manifestOf('p1', { createdAt: '2026-13-40' }),
    'a manner that is none': { ...manifestOf('p1'), how: 'magic' },
  };
  for (const [what, manifest] of Object.entries(cases)) {
    t.throws(
      () => parseManifest(text(manifest), 'here'),
      { code: 'manifest-invalid', details: { path: 'here' } },
      what,
    );
  }
});

t.test('every required member is required', async (t) => {
  const manifest: Record<string, unknown> = { ...manifestOf('p1') };
  for (const key of Object.keys(manifest)) {
    const { [key]: _, ...rest } = manifest;
    t.throws(() => parseManifest(text(rest), 'here'), { code: 'manifest-invalid' }, key);
  }
});

const isTypedOrManifest = (input: string) => {
  try {
    return typeof parseManifest(input, 'here').id === 'string';
  } catch (error) {
    return ['manifest-invalid', 'vault-format'].includes(codeOf(error));
  }
};

t.test('no text gets more than a typed error', async () => {
  await fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), isTypedOrManifest));
});

t.test('no bytes flipped or cut in a manifest get more than a typed error', async () => {
  const good = text(manifestOf('p2', { parent: point('p1') }));
  const damaged = fc
    .tuple(fc.nat(good.length), fc.nat(20), fc.string({ maxLength: 20 }))
    .map(([at, cut, put]) => good.slice(0, at) + put + good.slice(at + cut));
  await fc.assert(fc.property(damaged, isTypedOrManifest));
});

t.test('no value in the place of a member gets more than a typed error', async () => {
  const manifest = manifestOf('p2', { parent: point('p1') });
  const keys = fc.constantFrom(...Object.keys(manifest), '__proto__', 'constructor', 'toString');
  const [disk] = manifest.disks;
  const replaced = fc
    .tuple(keys, fc.constantFrom(...Object.keys(disk!)), fc.jsonValue())
    .chain(([key, member, value]) =>
      fc.constantFrom({ ...manifest, [key]: value }, { ...manifest, disks: [{ ...disk, [member]: value }] }),
    );
  await fc.assert(fc.property(replaced.map(text), isTypedOrManifest));
});

t.test('deep nesting is an error, not a crash', async (t) => {
  for (const input of ['['.repeat(500_000), `{"disks":${'['.repeat(200_000)}${']'.repeat(200_000)}}`]) {
    t.ok(isTypedOrManifest(input));
  }
});
