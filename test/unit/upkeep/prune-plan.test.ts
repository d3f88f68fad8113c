import t from 'tap';
import { planPrune } from '../../../src/upkeep/prune-plan.ts';
import type { Manifest } from '../../../src/vault/manifest.ts';
import { manifestOf, point } from '../../helpers/vault-files.ts';

/** `a`, then `b<a`, each a minute after the one before; `!` behind a name protects it. */
function pointsOf(words: string): Manifest[] {
  return words.split(' ').map((word, nth) => {
    const [, id = '', guard, parent] = /^(\w)(!?)(?:<(\w))?$/.exec(word) ?? [];
    return manifestOf(id, {
      parent: parent === undefined ? null : point(parent),
      createdAt: new Date(Date.UTC(2026, 0, 1, 0, nth)).toISOString(),
      ...(guard && { protected: true }),
    });
  });
}

function plan(words: string, expired: string, maxChain?: number, held = '') {
  const wish = { expired: new Set([...expired].map(point)), maxChain, held: new Set([...held].map(point)) };
  return planPrune(pointsOf(words), wish, (id) => (id === 'a' ? 100 : 10));
}

t.test('what goes, in which order, and what it costs', async (t) => {
  const table: [
    title: string,
    words: string,
    expired: string,
    steps: string,
    freed: number,
    merged: number,
  ][] = [
    ['nothing', 'a b<a', '', '', 0, 0],
    ['a whole chain', 'a b<a c<b d e<d', 'abc', 'a:delete', 120, 0],
    ['the end of a chain', 'a b<a c<b', 'bc', 'b:delete', 20, 0],
    ['a branch', 'a b<a c<b d<a', 'bc', 'b:delete', 20, 0],
    ['a middle one', 'a b<a c<b', 'b', 'b:keep', 10, 10],
    ['a full', 'a b<a c<b', 'a', 'a:keep', 100, 10],
    ['a full and the next', 'a b<a c<b', 'ab', 'a:keep b:keep', 210, 20],
    ['all but the newest', 'a b<a c<b d<c', 'abc', 'a:keep b:keep c:keep', 330, 30],
  ];
  for (const [title, words, expired, steps, freedBytes, mergeBytes] of table) {
    const found = plan(words, expired);
    const text = found.steps.map(({ point, descendants }) => `${point}:${descendants}`).join(' ');
    t.strictSame([text, found.freedBytes, found.mergeBytes], [steps, freedBytes, mergeBytes], title);
  }
});

t.test('forever incremental: the oldest are merged into the full', async (t) => {
  t.match(plan('a b<a c<b d<c', '', 2), { removes: ['a', 'b'], warnings: [] });
  t.match(plan('a b<a c<b d<c', '', 4), { removes: [] });
  t.match(plan('a b<a c<b d<c', 'b', 3), { removes: ['b'] }, 'what expires counts first');
  t.match(plan('a! b<a c<b', '', 2), { removes: [], warnings: [/protected/] });
});

t.test('what something outside of the vault stands on is not touched', async (t) => {
  const words = 'a b<a c<b d<c';
  t.match(plan(words, 'abc', undefined, 'ab'), { removes: ['c'], warnings: [/a is kept/, /b is kept/] });
  t.match(plan(words, '', 2, 'ab'), { removes: [], warnings: [/instant restore/] });
});
