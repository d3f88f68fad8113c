/**
 * A libvirt of a test's own: unpacked by scripts/setup, and run in a mount namespace in which it lies over the machine's
 * /usr, and /etc, /var and /run take what it writes. Nothing is installed, and all is gone with the namespace.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import { until } from '../../src/base/deadline.ts';
import { cacheDir } from '../../vm-fixtures/guestless.ts';
import { killProcessesIn, type Teardown, tempDir } from './temp-dir.ts';

const ROOT = join(cacheDir(), 'libvirt', 'root');

export const hasLibvirt = process.getuid?.() === 0 && existsSync(ROOT);

/** $0: libvirt, unpacked; $1: a folder for what it writes. */
const RUN = `
set -e
mount -t tmpfs -o mode=0755 qmpvault-test "$1"
mount -t overlay -o lowerdir="$0/usr:/usr" overlay /usr
for dir in etc var run; do
  mkdir -p "$1/$dir/upper" "$1/$dir/work"
  lower=/$dir; [ ! -d "$0/$dir" ] || lower=$0/$dir:/$dir
  mount -t overlay -o "lowerdir=$lower,upperdir=$1/$dir/upper,workdir=$1/$dir/work" overlay "/$dir"
done
mkdir -p /var/log/libvirt/qemu /var/cache/libvirt/qemu /var/lib/libvirt /run/libvirt /etc/libvirt
for user in libvirt-qemu kvm; do
  echo "$user:x:64055:64055::/:/bin/false" >>/etc/passwd
  echo "$user:x:64055:" >>/etc/group
done
cat >/etc/libvirt/qemu.conf <<CONF
security_driver = "none"
user = "root"
group = "root"
dynamic_ownership = 0
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
CONF
printf 'auth_unix_rw = "none"\\nunix_sock_group = "root"\\n' >/etc/libvirt/libvirtd.conf
exec libvirtd -f /etc/libvirt/libvirtd.conf
`;

export class Libvirt {
  /** Runs what follows it in libvirt's namespace. */
  readonly through: readonly string[];

  private constructor(pid: number) {
    this.through = ['nsenter', `--mount=/proc/${pid}/ns/mnt`, '--'];
  }

  static async start(t: Teardown): Promise<Libvirt> {
    const dir = tempDir(t);
    const writes = join(dir, 'writes');
    mkdirSync(writes);
    const args = ['--mount', '--', 'bash', '-c', RUN, ROOT, writes];
    const child = spawn('unshare', args, {
      stdio: 'ignore',
      detached: true,
      env: { ...process.env, QV_TEST: dir },
    });
    t.teardown(() => killProcessesIn(dir));
    const libvirt = new Libvirt(child.pid ?? -1);
    const answers = async () =>
      (await libvirt.virsh('version').catch(() => null)) === null ? undefined : true;
    await until(answers, { what: 'libvirtd to answer', timeoutMs: 60_000, everyMs: 100 });
    return libvirt;
  }

  async virsh(...args: string[]): Promise<string> {
    const [program = '', ...words] = [
      ...this.through,
      'virsh',
      '--quiet',
      '--connect',
      'qemu:///system',
      ...args,
    ];
    return (await execa(program, words)).stdout;
  }
}
