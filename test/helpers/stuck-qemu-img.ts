/** A qemu-img that gets stuck half-way through a copy, as it does on a NAS that hangs. */
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type QemuTools, qemuTools } from '../../src/image/tools.ts';
import { type Teardown, tempDir } from './temp-dir.ts';

/** Writes something into the target of a convert, tells of 50 % and goes on for an hour; the rest is as ever. */
export function stuckQemuImg(t: Teardown): QemuTools {
  const qemuImg = join(tempDir(t), 'qemu-img');
  const script = `#!/bin/sh
if [ "$1" != convert ]; then exec qemu-img "$@"; fi
for target; do :; done
printf 'half a disk' > "$target"
printf '    (50.00/100%%)\\r'
exec sleep 3600
`;
  writeFileSync(qemuImg, script);
  chmodSync(qemuImg, 0o755);
  return { ...qemuTools(), qemuImg };
}
