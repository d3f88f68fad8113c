/** What docs/architecture.md says of the steps, it says of all of them, and of no others. */
import { readFileSync } from 'node:fs';
import t from 'tap';
import { STEPS, stepsFromEnvironment } from '../../../src/base/steps.ts';

t.test('each kind of run has a table with each of its steps, in order', async (t) => {
  const text = readFileSync(new URL('../../../docs/architecture.md', import.meta.url), 'utf8');
  const section = text.slice(text.indexOf('## If the engine dies at a step'));
  const tables = section.split('\n\n').filter((part) => part.startsWith('| step |'));
  const steps = tables.map((table) =>
    table
      .split('\n')
      .slice(2)
      .flatMap((row) => [...(row.split('|')[1] ?? '').matchAll(/`([^`]+)`/g)].map(([, step]) => step)),
  );
  t.strictSame(steps, Object.values(STEPS));
});

t.test('without a wish in the environment a step is passed', async () => {
  await stepsFromEnvironment({})('journal');
  await stepsFromEnvironment({ QMPVAULT_STOP_AT: 'staging:kill' })('journal');
});
