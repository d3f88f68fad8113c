/** JSON as somebody else, or a broken disk, may have left it. */
import fc from 'fast-check';

/** Any text, any JSON, a good document with bytes cut or put in, and one with any value in the place of a member. */
export function damagedJson(good: Readonly<Record<string, unknown>>): fc.Arbitrary<string> {
  const text = JSON.stringify(good);
  const keys = fc.constantFrom(...Object.keys(good), '__proto__', 'constructor', 'toString');
  return fc.oneof(
    fc.string(),
    fc.json(),
    fc
      .tuple(fc.nat(text.length), fc.nat(20), fc.string({ maxLength: 20 }))
      .map(([at, cut, put]) => text.slice(0, at) + put + text.slice(at + cut)),
    fc.tuple(keys, fc.jsonValue()).map(([key, value]) => JSON.stringify({ ...good, [key]: value })),
    fc.nat(100_000).map((depth) => '['.repeat(depth)),
  );
}
