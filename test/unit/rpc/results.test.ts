import { test } from 'tap';
import type { OperationName, Result } from '../../../src/operations/index.ts';
import { RESULTS, type ResultJson } from '../../../src/rpc/results.ts';

/** Paths of members that are answered and not declared. Wrong ones are found where the table of operations is made. */
type Undeclared<Answered, Declared, Path extends string = ''> = Answered extends readonly (infer A)[]
  ? Declared extends readonly (infer D)[]
    ? Undeclared<A, D, `${Path}[]`>
    : Path
  : Answered extends object
    ? { [K in keyof Answered & string]: Member<Answered[K], Declared, K, `${Path}.${K}`> }[keyof Answered &
        string]
    : never;
type Member<Value, Declared, Key extends string, Path extends string> = Declared extends object
  ? Key extends keyof Declared
    ? Undeclared<NonNullable<Value>, NonNullable<Declared[Key]>, Path>
    : Path
  : never;

const undeclared: { [N in OperationName]: Undeclared<Result<N>, ResultJson<N>> }[OperationName][] = [];

test('every operation answers the members that its schema has, and no other', (t) => {
  t.same(undeclared satisfies never[], []);
  t.end();
});

test('results may get more members, and lose none', (t) => {
  const stored = { removed: ['a'], changed: [], freedBytes: 1, mergedBytes: 0 };
  t.ok(RESULTS.delete.safeParse({ ...stored, movedBytes: 7 }).success);
  t.notOk(RESULTS.delete.safeParse({ ...stored, removed: undefined }).success);
  t.end();
});
