/** A folder as a read-only mount shows it. */
import { asRoot } from './as-root.ts';
import { type Teardown, tempDir } from './temp-dir.ts';

/** A second path to a folder, through which nothing can be changed; unmounted when the test ends. */
export function readOnlyView(t: Teardown, folder: string): string {
  const view = tempDir(t);
  asRoot('mount', '--bind', folder, view);
  t.teardown(() => asRoot('umount', '--lazy', view));
  asRoot('mount', '-o', 'remount,bind,ro', view);
  return view;
}
