/**
 * The YAML text with the place of everything in it. Messages of the parser are used without the excerpt of the text that
 * it would add: the excerpt could show a password.
 */
import {
  type Alias,
  isAlias,
  isMap,
  isNode,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseDocument,
} from 'yaml';
import type { Flaw, Problem } from './problems.ts';

export interface Source {
  /** Plain JSON; null when the text is no YAML at all. */
  readonly value: unknown;
  /** Of the text itself, such as a key that stands twice. */
  readonly problems: readonly Problem[];
  problemAt(flaw: Flaw): Problem;
}

export function parseSource(file: string, text: string): Source {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, stringKeys: true });
  const at = (offset: number) => {
    const { line, col } = lines.linePos(offset);
    return { file, line: Math.max(line, 1), column: Math.max(col, 1) };
  };
  const problems = document.errors.map(
    ({ code, message, pos }): Problem => ({
      ...at(pos[0]),
      what: code === 'DUPLICATE_KEY' ? 'this key stands twice' : message,
      allowed: code === 'DUPLICATE_KEY' ? 'each key once' : 'YAML',
    }),
  );
  let value: unknown = null;
  try {
    // It throws for aliases without an anchor, and for so many of them that the text would explode.
    value = document.errors.every(({ code }) => code === 'DUPLICATE_KEY') ? document.toJS() : null;
  } catch (error) {
    problems.push({
      ...at(0),
      what: error instanceof Error ? error.message : String(error),
      allowed: 'YAML',
    });
  }
  return {
    value,
    problems,
    problemAt: ({ path, atKey = false, what, allowed }) => {
      const node = nodeAt(document.contents, path, atKey, (alias) => alias.resolve(document));
      const where = path.map(String).join('.');
      return { ...at(node?.range?.[0] ?? 0), what: where === '' ? what : `${where}: ${what}`, allowed };
    },
  };
}

/** The node at a path; where something is missing, the key of what it is missing in. */
function nodeAt(
  root: unknown,
  path: readonly PropertyKey[],
  atKey: boolean,
  resolve: (alias: Alias) => Node | undefined,
): Node | undefined {
  let found: Node | undefined = isNode(root) ? root : undefined;
  let inside: unknown = root;
  for (const [i, step] of path.entries()) {
    if (isAlias(inside)) inside = resolve(inside);
    // One thing that stands where a list may: it is the list's first.
    if (typeof step === 'number' && !isSeq(inside)) continue;
    if (isMap(inside)) {
      const pair = inside.items.find(({ key }) => isScalar(key) && String(key.value) === String(step));
      if (pair === undefined) break;
      const isLast = i === path.length - 1;
      inside = pair.value;
      // An empty value has no place of its own, and what is missing in a section is told at the section's key.
      const showsValue = isLast && !atKey && isNode(inside) && !(isScalar(inside) && inside.value === null);
      found = showsValue ? (inside as Node) : (pair.key as Node);
    } else if (isSeq(inside)) {
      inside = inside.items[Number(step)];
      if (!isNode(inside)) break;
      found = inside;
    } else break;
  }
  return found;
}
