/** The daemon with many VMs: what it takes, and how soon it answers while runs are at work and while the NAS hangs. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { GiB, KiB, MiB } from '../../src/base/units.ts';
import type { RpcClient } from '../../src/rpc/client.ts';
import { startDaemon } from '../../test/helpers/daemon.ts';
import { testSite } from '../../test/helpers/engine.ts';
import { freezableMount } from '../../test/helpers/freezable-mount.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { type Figure, TARGETS } from './figures.ts';
import type { Laboratory } from './laboratory.ts';
import { PACKAGED, packagedEnv } from './packaged.ts';
import type { Extent } from './plan.ts';

const RUNS = 4;
const ASK_EVERY_MS = 50;
const ASKED_WHILE_HANGING = 40;

export async function measureService(lab: Laboratory, { vms: count }: Extent): Promise<Figure[]> {
  const mount = freezableMount(lab, 4 * GiB);
  const site = await testSite(lab, { bin: qemuBin(lab.qemu), vault: join(mount.dir, 'vault') });
  const vms: Record<string, { qmp: string }> = {};
  for (let i = 0; i < count; i += 1) {
    const vm = await lab.startVm([{ name: 'vda', sizeBytes: 16 * MiB }]);
    await vm.write('vda', 1 + (i % 200), 0, 4 * MiB);
    vms[`vm${i}`] = { qmp: vm.qmpSocket };
  }
  const env = { ...packagedEnv(lab), QMPVAULT_QEMU_BIN: qemuBin(lab.qemu) };
  const daemon = await startDaemon(lab, site, {
    config: { limits: { runs: RUNS }, vms },
    env,
    program: PACKAGED,
  });
  const { client } = daemon;

  const began = performance.now();
  const runs = await Promise.all(Object.keys(vms).map((vm) => client.call('backup.start', { vm })));
  const busy = await askUntil(client, async () => {
    const { runs } = await client.call('daemon.status', {});
    return runs.queued + runs.running === 0;
  });
  const tookMs = performance.now() - began;
  const ended = await Promise.all(runs.map(({ runId }) => client.call('run.get', { runId })));
  const failed = ended.filter(({ state }) => state !== 'succeeded');
  if (failed.length > 0)
    throw new Error(`${failed.length} of ${count} backups failed: ${failed[0]?.error?.message}`);
  if (busy.mostRunning > RUNS)
    throw new Error(`${busy.mostRunning} runs at a time, where ${RUNS} are allowed`);

  mount.freeze();
  const hanging = await client.call('backup.start', { vm: 'vm0', full: true });
  let asked = 0;
  const hung = await askUntil(client, async () => ++asked >= ASKED_WHILE_HANGING);
  await client.call('run.cancel', hanging);
  const cancelBegan = performance.now();
  await client.call('run.wait', hanging);
  const cancelMs = performance.now() - cancelBegan;
  mount.thaw();

  return [
    { name: `${count} VMs backed up, ${RUNS} at a time, each`, value: tookMs / count, unit: 'ms' },
    {
      name: 'memory of the daemon',
      value: (await peakBytes(daemon.process.pid)) / 1e6,
      unit: 'MB',
      target: TARGETS.daemonMb,
    },
    { name: 'worst answer, runs at work', value: busy.worstMs, unit: 'ms', target: TARGETS.answerMs },
    { name: 'worst answer, NAS hangs', value: hung.worstMs, unit: 'ms', target: TARGETS.answerMs },
    { name: 'cancelling a run, NAS hangs', value: cancelMs, unit: 'ms', target: TARGETS.cancelMs },
  ];
}

/** Asks for the daemon's status again and again, until it is done. */
async function askUntil(client: RpcClient, isDone: () => Promise<boolean>) {
  let worstMs = 0;
  let mostRunning = 0;
  do {
    const began = performance.now();
    const { runs } = await client.call('daemon.status', {});
    worstMs = Math.max(worstMs, performance.now() - began);
    mostRunning = Math.max(mostRunning, runs.running);
    await delay(ASK_EVERY_MS);
  } while (!(await isDone()));
  return { worstMs, mostRunning };
}

async function peakBytes(pid: number | undefined): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) * KiB;
}
