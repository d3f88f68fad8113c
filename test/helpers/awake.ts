/** What must be true of a real guest after its engine or its agent failed in the moment. */
import type { Test } from 'tap';
import { GuestAgent } from '../../qmp/index.ts';
import { MiB } from '../../src/base/units.ts';
import type { LinuxGuest } from '../../vm-fixtures/linux-guest.ts';
import { backUpWithTruth, expectClean, expectTruth, type TestSite } from './engine.ts';
import type { unreliableAgent } from './unreliable-agent.ts';

/** A write that has to reach the disk ends only when the guest runs and is thawed. */
export async function expectAwake(t: Test, guest: LinuxGuest, timeoutMs: number): Promise<void> {
  const began = performance.now();
  await guest.sh('for disk in /mnt/*; do date >$disk/awake; done; sync', { timeoutMs });
  t.comment(`the guest wrote and synced after ${Math.round(performance.now() - began)} ms`);
  t.match(await guest.vm.qmp.execute('query-status'), { status: 'running' });
}

/** The agent's socket serves one client: an answer means, too, that engine and guard have gone. */
export async function expectThawed(t: Test, guest: LinuxGuest): Promise<void> {
  await using agent = await GuestAgent.connect({ path: guest.agentSocket });
  t.equal(await agent.freezeStatus(), 'thawed');
}

/** A backup of which this agent keeps the freeze from being sure: the point is made and says so, in bounded memory. */
export async function expectCrashConsistent(
  t: Test,
  site: TestSite,
  guest: LinuxGuest,
  agent: Awaited<ReturnType<typeof unreliableAgent>>,
): Promise<void> {
  const before = process.memoryUsage.rss();
  const { point, warnings } = await site.backUp(guest.vm, { agent: agent.path });
  t.ok(agent.fired);
  t.match(point, { consistency: 'crash', timings: { freezeMs: null } });
  t.not(warnings.length, 0, 'that is said');
  t.ok(process.memoryUsage.rss() - before < 256 * MiB, 'in bounded memory');
  await expectAwake(t, guest, 2_000);
  await expectThawed(t, guest);
  await expectClean(t, site, guest.vm, { bitmaps: 1 });
}

/** With all in order again: an incremental with a freeze, and one whose contents are compared with the truth. */
export async function expectNextIsRight(t: Test, site: TestSite, guest: LinuxGuest): Promise<void> {
  const { agentSocket: agent, vm } = guest;
  const { point } = await site.backUp(vm, { agent });
  t.equal(point.consistency, 'filesystem', 'the next one freezes the guest again');
  t.equal(point.how, 'tracked');
  await guest.sh('for disk in /mnt/*; do mount -o remount,ro $disk; done');
  const still = await backUpWithTruth(site, vm);
  await expectTruth(t, site, vm, still);
  await guest.sh('for disk in /mnt/*; do mount -o remount,rw $disk; done');
  await expectClean(t, site, vm, { bitmaps: 1 });
}
