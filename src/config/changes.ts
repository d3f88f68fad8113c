/** What a new configuration changes, in words: `limits.runs: 2, now 3`. Secrets are not told, only that they changed. */
import { isDeepStrictEqual } from 'node:util';
import type { Config } from './config.ts';
import { Secret } from './secret.ts';

interface Change {
  readonly path: readonly string[];
  /** Behind the path. */
  readonly words: string;
}

export function describeChanges(before: Config, after: Config): string[] {
  const changes = changesOf([], before, after).filter(({ path }) => path[0] !== 'file');
  const ofDefaults = new Set(
    changes.filter(({ path }) => path[0] === 'defaults').map(({ path, words }) => told(path.slice(1), words)),
  );
  return changes
    .filter(({ path, words }) => path[0] !== 'vms' || !ofDefaults.has(told(path.slice(2), words)))
    .map(({ path, words }) => told(path, words));
}

function told(path: readonly string[], words: string): string {
  return `${path.join('.')}${words}`;
}

function changesOf(path: readonly string[], before: unknown, after: unknown): Change[] {
  if (before instanceof Secret || after instanceof Secret) {
    const isSame = before instanceof Secret && after instanceof Secret && before.equals(after);
    return isSame ? [] : [{ path, words: ' changed' }];
  }
  const [old, now] = [entriesOf(before), entriesOf(after)];
  if (old === null || now === null) {
    if (isDeepStrictEqual(before, after)) return [];
    return [{ path, words: `: ${wordsOf(before)}, now ${wordsOf(after)}` }];
  }
  const isList = Array.isArray(before);
  return [...new Set([...old.keys(), ...now.keys()])].flatMap((key) => {
    const inner = [...path, key];
    if (isList && !old.has(key)) return [{ path: inner, words: ' is new' }];
    if (isList && !now.has(key)) return [{ path: inner, words: ' is gone' }];
    return changesOf(inner, old.get(key), now.get(key));
  });
}

/** The members of an object, and the items of a list by their names or places; null of what is told as a whole. */
function entriesOf(value: unknown): ReadonlyMap<string, unknown> | null {
  if (!isObject(value) || 'text' in value) return null;
  if (!Array.isArray(value)) return new Map(Object.entries(value));
  if (!value.every((item) => isObject(item) && !('text' in item))) return null;
  return new Map(value.map((item, i) => ['name' in item ? String(item.name) : String(i), item]));
}

function wordsOf(value: unknown): string {
  if (value === null || value === undefined) return 'none';
  if (Array.isArray(value)) return value.map(wordsOf).join(', ') || 'none';
  // A window of time, as it was written.
  if (isObject(value) && 'text' in value) return String(value.text);
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null;
}
