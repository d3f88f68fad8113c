/** Fixture VMs that end with their test. */
import { type FixtureVm, startVm, type VmOptions } from '../../vm-fixtures/guestless.ts';
import { type LinuxGuest, startGuest } from '../../vm-fixtures/linux-guest.ts';
import { type Teardown, tempDir } from './temp-dir.ts';

type TestVmOptions = Omit<VmOptions, 'dir'> & { readonly dir?: string };

/** Starts a VM in a folder of its own (`vm.dir`), or in the one given; killed when the test ends. */
export async function testVm(t: Teardown, options: TestVmOptions): Promise<FixtureVm> {
  const vm = await startVm({ dir: tempDir(t), ...options });
  t.teardown(() => vm.kill());
  return vm;
}

/** The same with a real guest in it. */
export async function testGuest(t: Teardown, options: TestVmOptions): Promise<LinuxGuest> {
  const guest = await startGuest({ dir: tempDir(t), ...options });
  t.teardown(() => guest.kill());
  return guest;
}
