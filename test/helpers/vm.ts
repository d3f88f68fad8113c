/** Fixture VMs that end with their test. */
import { type FixtureVm, startVm, type VmOptions } from '../../vm-fixtures/guestless.ts';
import { type Teardown, tempDir } from './temp-dir.ts';

/** Starts a VM in a folder of its own (`vm.dir`), or in the one given; killed when the test ends. */
export async function testVm(
  t: Teardown,
  options: Omit<VmOptions, 'dir'> & { dir?: string },
): Promise<FixtureVm> {
  const vm = await startVm({ dir: tempDir(t), ...options });
  t.teardown(() => vm.kill());
  return vm;
}
