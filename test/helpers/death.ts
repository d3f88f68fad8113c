import { until } from '../../src/base/deadline.ts';
import { describe } from '../../src/image/process-id.ts';

/** A killed process dies when it is next scheduled, not when the signal is sent. @throws when it lives on */
export async function deathOf(pid: number): Promise<void> {
  await until(async () => ((await describe(pid)) === null ? true : undefined), { what: `the end of ${pid}` });
}
