/** Row 33: another QMP client holds the socket, or QEMU has it and does not answer. */
import { once } from 'node:events';
import net from 'node:net';
import t, { type Test } from 'tap';
import type { FixtureVm, QemuVersion } from '../../vm-fixtures/guestless.ts';
import { backedUpVm } from '../helpers/backed-up-vm.ts';
import { expectClean } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';

const BOUND_MS = 10_000 + 3_000;

type Take = (t: Test, vm: FixtureVm) => Promise<() => void>;

const heldByAnother: Take = async (t, vm) => {
  const other = net.connect(vm.qmpSocket);
  t.teardown(() => other.destroy());
  await once(other, 'data');
  return () => other.destroy();
};

const stopped: Take = async (_, vm) => {
  process.kill(vm.pid, 'SIGSTOP');
  return () => process.kill(vm.pid, 'SIGCONT');
};

async function expectBounded(t: Test, qemu: QemuVersion, take: Take): Promise<void> {
  const { vm, site } = await backedUpVm(t, qemu);
  const release = await take(t, vm);
  const began = performance.now();
  await t.rejects(site.backUp(vm), { code: 'vm-busy' });
  t.ok(performance.now() - began < BOUND_MS, `after ${Math.round(performance.now() - began)} ms`);
  release();
  t.equal((await site.backUp(vm)).point.how, 'tracked');
  await expectClean(t, site, vm, { bitmaps: 1 });
}

t.test(
  'a socket that is taken is waited for, for a while; the error is clear, the next is right',
  async (t) => {
    // All at once: each of them waits for as long as a socket may be silent.
    const cases = qemuVersions(['7.2', '11.1']).flatMap((qemu) => [
      expectBounded(t, qemu, heldByAnother),
      expectBounded(t, qemu, stopped),
    ]);
    await Promise.all(cases);
  },
);
