import t from 'tap';
import { parseCommandLine } from '../../../src/vm/command-line.ts';
import { imageName } from '../../../src/vm/disks.ts';

t.test('a VM that was started by hand', async (t) => {
  const args = [
    '-name',
    'web1',
    '-qmp',
    'unix:/run/qemu/web1.qmp,server=on,wait=off',
    '-qmp',
    'tcp::4444,server=on',
  ];
  args.push('-chardev', 'socket,id=qga,path=/run/a,,b.qga,server=on,wait=off', '-monitor', 'stdio');
  args.push('-device', 'virtserialport,chardev=qga,name=org.qemu.guest_agent.0');
  t.strictSame(parseCommandLine(args), { name: 'web1', qmp: ['/run/qemu/web1.qmp'], agent: '/run/a,b.qga' });
});

t.test('of a VM of libvirt, the socket that was added to its own', async (t) => {
  const args = ['-name', 'guest=i-2-3-VM,debug-threads=on', '-S'];
  args.push(
    '-chardev',
    'socket,id=charmonitor,fd=23,server=on,wait=off',
    '-mon',
    'chardev=charmonitor,id=monitor,mode=control',
  );
  args.push('-chardev', 'socket,id=charchannel0,fd=24,server=on,wait=off');
  args.push(
    '-device',
    '{"driver":"virtserialport","bus":"v.0","nr":1,"chardev":"charchannel0","id":"channel0","name":"org.qemu.guest_agent.0"}',
  );
  args.push(
    '-chardev',
    'socket,id=qmpvault,path=/run/qemu/i-2-3-VM.qmp,server=on,wait=off',
    '-mon',
    'chardev=qmpvault,mode=control',
  );
  args.push(
    '-chardev',
    'socket,id=hmp,path=/run/hmp,server=on,wait=off',
    '-mon',
    'chardev=hmp,mode=readline',
    '-mon',
    'chardev=hmp',
  );
  t.strictSame(parseCommandLine(args), { name: 'i-2-3-VM', qmp: ['/run/qemu/i-2-3-VM.qmp'], agent: null });
});

t.test("libvirt's own sockets are left alone where they have a path", async (t) => {
  const args = [
    '-name',
    'guest=a',
    '-chardev',
    'socket,id=charmonitor,path=/var/lib/libvirt/qemu/domain-1-a/monitor.sock,server,nowait',
  ];
  args.push('-mon', 'chardev=charmonitor,id=monitor,mode=control', '--qmp', 'unix:/run/q,server,nowait');
  args.push('-chardev', 'socket,id=c,path=/var/lib/libvirt/qemu/channel/target/a,server,nowait');
  args.push('-device', 'virtserialport,chardev=c,name=org.qemu.guest_agent.0');
  t.strictSame(parseCommandLine(args), { name: 'a', qmp: ['/run/q'], agent: null });
});

t.test('a QEMU that says nothing of itself', async (t) => {
  t.strictSame(parseCommandLine(['-m', '64', '-qmp', 'chardev:mon0']), { name: null, qmp: [], agent: null });
  t.strictSame(parseCommandLine(['-name', '{not json', '-device']), { name: null, qmp: [], agent: null });
});

t.test('an image is called by its file, or by the volume that it is', async (t) => {
  t.equal(imageName('/mnt/primary/8f2c6c0e-77a1'), '8f2c6c0e-77a1');
  t.equal(imageName('/var/lib/images/vda.qcow2'), 'vda.qcow2');
  t.equal(imageName('rbd:cloudstack/53d5c355-d726:mon_host=10.0.1.2'), '53d5c355-d726');
  t.equal(imageName('/dev/drbd/by-res/cs-53d5c355-d726/0'), '53d5c355-d726');
});
