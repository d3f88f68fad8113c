/** A VM that libvirt runs, with a second QMP socket: both at once, and neither takes anything from the other. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import type { FixtureVm } from '../../vm-fixtures/guestless.ts';
import { difference } from '../helpers/images.ts';
import { hasLibvirt, Libvirt } from '../helpers/libvirt.ts';
import { type Backup, boundTo, Orchestrator } from '../helpers/orchestrator.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { tempDir } from '../helpers/temp-dir.ts';

const INSTANCE = 'i-2-9-VM';

function domain(dir: string, disks: readonly { readonly image: string; readonly target: string }[]): string {
  const sources = disks.map(
    ({ image, target }) =>
      `<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='${image}'/><target dev='${target}' bus='virtio'/></disk>`,
  );
  return `<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>${INSTANCE}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    ${sources.join('\n    ')}
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-chardev'/>
    <qemu:arg value='socket,id=qmpvault,path=${dir}/vm.qmp,server=on,wait=off'/>
    <qemu:arg value='-mon'/>
    <qemu:arg value='chardev=qmpvault,mode=control'/>
  </qemu:commandline>
</domain>
`;
}

// The machine's own QEMU, which is what libvirt starts.
const skip =
  hasLibvirt && qemuVersions(['7.2']).length > 0 ? false : 'no libvirt, not root, or not on this QEMU';

t.test('a VM of libvirt, backed up through a socket of its own beside it', { skip }, async (t) => {
  const libvirt = await Libvirt.start(t);
  const dir = tempDir(t);
  const nas = join(dir, 'nas');
  mkdirSync(nas);
  const disks = ['root-volume', 'data-volume'].map((name, i) => ({
    image: join(dir, name),
    target: `vd${'ab'[i]}`,
    device: `virtio-disk${i}`,
    attach: 'virtio-blk',
  }));
  for (const { image } of disks)
    await execa('qemu-img', ['create', '-q', '-f', 'qcow2', image, `${16 * MiB}`]);
  writeFileSync(join(dir, 'domain.xml'), domain(dir, disks));
  await libvirt.virsh('create', join(dir, 'domain.xml'));
  t.teardown(() => libvirt.virsh('destroy', INSTANCE).catch(() => {}));
  const hmp = (device: string, command: string) =>
    libvirt.virsh('qemu-monitor-command', INSTANCE, '--hmp', `qemu-io -d ${device} "${command}"`);
  const orchestrator = new Orchestrator(t, { nas: boundTo(nas), through: libvirt.through });
  const backUp = async (pattern: number) => {
    for (const { device } of disks) await hmp(device, `write -P ${pattern} ${pattern * MiB} 2M`);
    // As it decides by the volumes that its database has.
    const backup = await orchestrator.backUp(INSTANCE, { disks } as unknown as FixtureVm, { quiesce: true });
    for (const [i, { device, image }] of disks.entries()) {
      await hmp(device, 'flush');
      await execa('qemu-img', ['convert', '-U', '-O', 'raw', image, join(dir, `truth-${pattern}-${i}`)]);
    }
    return backup;
  };
  const first = await backUp(1);
  t.match(await libvirt.virsh('domblklist', INSTANCE), /vda .*root-volume/, 'libvirt still speaks to it');
  const second = await backUp(2);
  const manifest = ({ path }: Backup) => JSON.parse(readFileSync(join(nas, path, 'manifest.json'), 'utf8'));
  t.match(manifest(second), { how: 'tracked', bitmapAlias: second.bitmap, parent: first.path.split('/')[1] });
  t.strictSame(second.volumes, ['root.root-volume.qcow2', 'datadisk.data-volume.qcow2']);
  for (const [pattern, backup] of [first, second].entries()) {
    for (const [i, file] of backup.volumes.entries()) {
      const target = await orchestrator.restore(nas, backup, file, join(dir, 'restored'));
      t.equal(
        await difference(target, join(dir, `truth-${pattern + 1}-${i}`)),
        null,
        `${file} of ${backup.path}`,
      );
    }
  }
  const xml = readFileSync(join(nas, second.path, 'domain-config.xml'), 'utf8');
  t.match(
    xml,
    new RegExp(`^<domain[^>]*>[\\s\\S]*<name>${INSTANCE}</name>`),
    'what libvirt knows of it lies beside',
  );
  t.match(
    await orchestrator.log(),
    /no guest agent that qmpvault may use/,
    "libvirt's own agent socket is left alone",
  );
  t.match(await libvirt.virsh('list'), new RegExp(`${INSTANCE} +running`));
});
