/** docs/reliability.md names each row of the fault table once, with the one file that tests it. */
import { readdirSync, readFileSync } from 'node:fs';
import t from 'tap';

const ROWS = Array.from({ length: 48 }, (_, i) => i + 1);

t.test('every row has exactly one file, named by its number, and stands in the table with it', async (t) => {
  const folder = new URL('../../fault/', import.meta.url);
  const files = readdirSync(folder).map((name) => name.replace('.test.ts', ''));
  const byRow = files.flatMap((file) => {
    const numbers = /^(\d\d(?:-\d\d)*)-[a-z]/.exec(file)?.[1] ?? '';
    return numbers.split('-').map((number) => [Number(number), file] as const);
  });
  t.strictSame(
    byRow.map(([row]) => row).toSorted((a, b) => a - b),
    ROWS,
  );
  const text = readFileSync(new URL('../../../docs/reliability.md', import.meta.url), 'utf8');
  const told = [...text.matchAll(/^\| (\d+) \|.*\| `([^`]+)` \|$/gm)].map(([, row, file]) => [
    Number(row),
    file,
  ]);
  t.strictSame(
    told,
    ROWS.map((row) => [row, byRow.find(([number]) => number === row)?.[1]]),
  );
});
