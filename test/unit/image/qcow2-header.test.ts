import fc from 'fast-check';
import t from 'tap';
import { BadHeader, parseQcow2Header } from '../../../src/image/qcow2-header.ts';

const CLUSTER_BYTES = 65536;
const BACKING_FORMAT = 0xe2792aca;
const DATA_FILE = 0x44415441;

interface Recipe {
  version?: number;
  clusterBits?: number;
  size?: bigint;
  crypt?: number;
  incompatible?: bigint;
  headerLength?: number;
  extensions?: { type: number; data: Buffer; length?: number }[];
  link?: Buffer | string;
  linkOffset?: bigint;
  linkLength?: number;
}

/** A first cluster as qemu-img lays it out: header, extensions, backing file name. */
function cluster(recipe: Recipe = {}): Buffer {
  const { version = 3, clusterBits = 16, size = 1n << 30n, crypt = 0, incompatible = 0n } = recipe;
  const { headerLength = 104, extensions = [], link } = recipe;
  const bytes = Buffer.alloc(CLUSTER_BYTES);
  bytes.writeUInt32BE(0x514649fb, 0);
  bytes.writeUInt32BE(version, 4);
  bytes.writeUInt32BE(clusterBits, 20);
  bytes.writeBigUInt64BE(size, 24);
  bytes.writeUInt32BE(crypt, 32);
  if (version === 3) {
    bytes.writeBigUInt64BE(incompatible, 72);
    bytes.writeUInt32BE(headerLength, 100);
  }
  let at = version === 3 ? 104 : 72;
  for (const { type, data, length = data.length } of extensions) {
    bytes.writeUInt32BE(type, at);
    bytes.writeUInt32BE(length, at + 4);
    data.copy(bytes, at + 8);
    at += 8 + Math.ceil(data.length / 8) * 8;
  }
  at += 8;
  if (link !== undefined) {
    const text = Buffer.from(link);
    text.copy(bytes, at);
    bytes.writeBigUInt64BE(recipe.linkOffset ?? BigInt(at), 8);
    bytes.writeUInt32BE(recipe.linkLength ?? text.length, 16);
  }
  return bytes;
}

const qcow2 = { type: BACKING_FORMAT, data: Buffer.from('qcow2') };

t.test('a plain image is read', async (t) => {
  t.same(parseQcow2Header(cluster()), {
    version: 3,
    virtualSizeBytes: 1 << 30,
    clusterBytes: CLUSTER_BYTES,
    backingLink: null,
    backingFormat: null,
    dirty: false,
    corrupt: false,
    externalData: false,
    encrypted: false,
  });
});

t.test('a backing link is given as it is written', async (t) => {
  for (const link of [
    '../p/vda.qcow2',
    '/etc/shadow',
    'json:{"driver":"file"}',
    'nbd:x:1',
    '../ü, \u{feff}b',
  ]) {
    t.match(parseQcow2Header(cluster({ link, extensions: [qcow2] })), {
      backingLink: link,
      backingFormat: 'qcow2',
    });
  }
  t.match(parseQcow2Header(cluster({ version: 2, link: 'a', extensions: [qcow2] })), {
    version: 2,
    backingLink: 'a',
    backingFormat: 'qcow2',
  });
});

t.test('the feature bits are told apart', async (t) => {
  t.match(parseQcow2Header(cluster({ incompatible: 1n })), { dirty: true, corrupt: false });
  t.match(parseQcow2Header(cluster({ incompatible: 2n })), { dirty: false, corrupt: true });
  t.match(parseQcow2Header(cluster({ incompatible: 4n })), { externalData: true });
  t.match(parseQcow2Header(cluster({ incompatible: 24n })), { externalData: false }, 'zstd, subclusters');
  t.match(parseQcow2Header(cluster({ crypt: 2 })), { encrypted: true });
  const data = { type: DATA_FILE, data: Buffer.from('/etc/shadow') };
  t.match(parseQcow2Header(cluster({ extensions: [data] })), { externalData: true }, 'named, but not said');
});

const NONSENSE: Readonly<Record<string, Buffer>> = {
  nothing: Buffer.alloc(0),
  'another magic': Buffer.alloc(CLUSTER_BYTES, 'QFI\x00'),
  'an end within the header': cluster().subarray(0, 80),
  'version 1': cluster({ version: 1 }),
  'version 4': cluster({ version: 4 }),
  'tiny clusters': cluster({ clusterBits: 8 }),
  'huge clusters': cluster({ clusterBits: 22 }),
  'a size that no number holds': cluster({ size: 1n << 62n }),
  'a feature of the future': cluster({ incompatible: 32n }),
  'a header that is too short': cluster({ headerLength: 96 }),
  'a header longer than a cluster': cluster({ headerLength: CLUSTER_BYTES + 8 }),
  'an extension that reaches too far': cluster({ extensions: [{ ...qcow2, length: CLUSTER_BYTES }] }),
  'an extension that reaches into the backing link': cluster({
    link: '../p/a.qcow2',
    extensions: [{ ...qcow2, length: 40 }],
  }),
  'an extension twice': cluster({ extensions: [qcow2, qcow2] }),
  'a link behind the first cluster': cluster({ link: 'a', linkOffset: BigInt(CLUSTER_BYTES) }),
  'a link at the end of the world': cluster({ link: 'a', linkOffset: 2n ** 64n - 1n }),
  'a link that is too long': cluster({ link: 'a', linkLength: 1024 }),
  'a link with a NUL, behind which QEMU does not read': cluster({ link: '../p/a\0b' }),
  'a link that is no UTF-8': cluster({ link: Buffer.from([0x2e, 0xc3, 0x28]) }),
};

for (const [what, bytes] of Object.entries(NONSENSE)) {
  t.test(`refused: ${what}`, async (t) => {
    t.throws(() => parseQcow2Header(bytes), BadHeader);
  });
}

t.test('whatever the bytes are, they are read or refused, and nothing else happens', async (t) => {
  const anything = fc.uint8Array({ maxLength: 300 });
  // Mostly a good header with some bytes changed, which gets further than noise does.
  const damage = fc.array(fc.tuple(fc.nat(400), fc.integer({ min: 0, max: 255 })), { maxLength: 12 });
  const recipes = fc.record({
    version: fc.constantFrom(2, 3),
    clusterBits: fc.integer({ min: 0, max: 40 }),
    extensions: fc.array(
      fc.record({
        type: fc.constantFrom(0, BACKING_FORMAT, DATA_FILE, 0x6803f857),
        data: anything.map((data) => Buffer.from(data)),
      }),
      { maxLength: 4 },
    ),
    link: anything.map((link) => Buffer.from(link)),
    cut: fc.nat(2000),
    damage,
  });
  const readOrRefused = (bytes: Buffer) => {
    try {
      const header = parseQcow2Header(bytes);
      return (
        Number.isSafeInteger(header.virtualSizeBytes) &&
        (header.backingLink === null || Buffer.byteLength(header.backingLink) <= 1023)
      );
    } catch (error) {
      return error instanceof BadHeader;
    }
  };
  fc.assert(
    fc.property(anything, (bytes) => readOrRefused(Buffer.from(bytes))),
    { numRuns: 300 },
  );
  fc.assert(
    fc.property(recipes, ({ cut, damage, ...recipe }) => {
      const bytes = cluster(recipe);
      for (const [at, value] of damage) bytes[at] = value;
      return readOrRefused(cut % 2 === 0 ? bytes : bytes.subarray(0, cut));
    }),
    { numRuns: 500 },
  );
  t.pass('held');
});
