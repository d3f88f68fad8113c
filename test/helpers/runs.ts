/** Records of runs, as tests of the daemon's pure parts need them. */
import type { RunId, VmName } from '../../src/base/ids.ts';
import { newRunRecord, type RunRecord } from '../../src/daemon/run-record.ts';

export const START = Date.UTC(2026, 10, 20, 8);

let made = 0;

/** A queued backup, each a second later than the one before. */
export function runOf({
  vm = 'web1',
  ...facts
}: Partial<Omit<RunRecord, 'vm'>> & { vm?: string | null } = {}) {
  made += 1;
  const id = made.toString(16).padStart(8, '0') as RunId;
  const run = { what: 'backup', vault: 'nas', params: {}, cause: 'requested' } as const;
  return {
    ...newRunRecord(id, { ...run, vm: vm as VmName | null }, new Date(START + made * 1000)),
    ...facts,
  } satisfies RunRecord;
}
