/** Row 31, of QMP: a connection that is cut in every state, and peers that are no QEMU. That of RPC is tested with it. */
import { once } from 'node:events';
import net from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import t, { type Test } from 'tap';
import { until } from '../../src/base/deadline.ts';
import { MiB } from '../../src/base/units.ts';
import { Vm } from '../../src/vm/vm.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { backUpWithTruth, expectClean, expectTruth, testSite } from '../helpers/engine.ts';
import { eventOf, GREETING } from '../helpers/fake-qemu.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { qmpProxy } from '../helpers/qmp-proxy.ts';
import { tempDir } from '../helpers/temp-dir.ts';
import { flood } from '../helpers/unreliable-agent.ts';
import { testVm } from '../helpers/vm.ts';

/** The nth of this command is cut: before QEMU hears it, or when QEMU has done it and before its reply is here. */
const CUTS: [command: string, nth: number, how: 'cut' | 'cut-after'][] = [
  ['blockdev-add', 3, 'cut-after'],
  ['transaction', 1, 'cut-after'],
  ['stop', 1, 'cut-after'],
  ['qom-set', 2, 'cut'],
  ['cont', 1, 'cut'],
  ['transaction', 2, 'cut-after'],
  ['query-jobs', 2, 'cut'],
  ['job-dismiss', 1, 'cut-after'],
  ['qom-set', 3, 'cut-after'],
  ['block-dirty-bitmap-remove', 1, 'cut-after'],
];

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  t.test(`QEMU ${qemu}: a connection cut in any state ends the run, and the next one is right`, async (t) => {
    const vm = await testVm(t, {
      qemu,
      disks: [
        { name: 'vda', sizeBytes: 8 * MiB },
        { name: 'vdb', sizeBytes: 8 * MiB, attach: 'virtio-scsi', iothread: true },
      ],
    });
    const site = await testSite(t, { bin: qemuBin(qemu) });
    const points = [await backUpWithTruth(site, vm)];
    const isRunning = async () => {
      const { status } = (await vm.qmp.execute('query-status')) as { status: string };
      return status === 'running' || undefined;
    };
    for (const [round, [command, nth, how]] of CUTS.entries()) {
      const what = `${command} ${nth}, ${how}`;
      for (const { name } of vm.disks) await vm.write(name, round + 1, MiB, 2 * MiB);
      let seen = 0;
      const { path } = await qmpProxy(t, vm.qmpSocket, {
        onCommand: (name) => {
          if (name === command) seen += 1;
          return name === command && seen === nth ? how : undefined;
        },
      });
      const run = site.backUp(vm, { qmp: path, fullEvery: 99 });
      if (command === 'block-dirty-bitmap-remove') {
        t.match((await run).warnings, [/old bitmap could not be removed/]);
      } else await t.rejects(run, { code: 'vm-lost' }, what);
      t.ok(seen >= nth, `${what}: it was cut`);
      await until(isRunning, { what: `the guest to go on after ${what}`, timeoutMs: 10_000 });
      for (const { name } of vm.disks) await vm.write(name, round + 101, 4 * MiB, MiB);
      points.push(await backUpWithTruth(site, vm, { fullEvery: 99 }));
      t.equal(points.at(-1)?.how, 'tracked', what);
      await expectClean(t, site, vm, { bitmaps: 1 });
    }
    for (const point of points) await expectTruth(t, site, vm, point);
  });
}

type Say = (value: unknown) => void;
interface Line {
  readonly execute?: string;
  readonly id?: unknown;
}

/** What a peer does when it is connected to, and with each line; and what comes of it. */
const PEERS: {
  readonly what: string;
  readonly code: string;
  readonly timeoutMs?: number;
  readonly onConnect?: (socket: net.Socket, say: Say) => unknown;
  readonly onLine?: (line: Line, say: Say, socket: net.Socket) => unknown;
}[] = [
  { what: 'says nothing', code: 'vm-busy' },
  { what: 'greets and says no more', code: 'vm-busy', onConnect: (_, say) => say(GREETING) },
  { what: 'closes', code: 'vm-unreachable', onConnect: (socket) => socket.end() },
  {
    what: 'closes in the middle of its greeting',
    code: 'vm-unreachable',
    onConnect: (socket) => socket.end('{"QMP": {"version"'),
  },
  { what: 'is another service', code: 'qmp-protocol', onConnect: (socket) => socket.write('SSH-2.0-x\r\n') },
  {
    what: 'sends a line without end',
    code: 'qmp-protocol',
    timeoutMs: 20_000,
    onConnect: (socket) => flood(socket, 'x'),
  },
  {
    what: 'nests without end',
    code: 'qmp-protocol',
    timeoutMs: 20_000,
    onConnect: (socket) => flood(socket, '['),
  },
  {
    // A client before us may have asked it.
    what: 'answers what was not asked',
    code: 'vm-busy',
    onConnect: (_, say) => say(GREETING),
    onLine: (_, say) => say({ return: {}, id: 'another' }),
  },
  {
    what: 'answers nothing but its negotiation, and sends events without end',
    code: 'vm-busy',
    onConnect: (_, say) => say(GREETING),
    onLine: ({ execute, id }, say, socket) => {
      if (execute !== 'qmp_capabilities') return;
      say({ return: {}, id });
      flood(socket, `${JSON.stringify(eventOf('RTC_CHANGE'))}\r\n`);
    },
  },
  {
    what: 'answers all with nonsense',
    code: 'qmp-protocol',
    onConnect: (_, say) => say(GREETING),
    onLine: ({ id, execute }, say) => say({ return: execute === 'qmp_capabilities' ? {} : [[null]], id }),
  },
  {
    what: 'closes when it is asked who it is',
    code: 'vm-unreachable',
    onConnect: (_, say) => say(GREETING),
    onLine: ({ id, execute }, say, socket) =>
      execute === 'qmp_capabilities' ? say({ return: {}, id }) : socket.destroy(),
  },
];

t.test('a peer that is no QEMU costs little time and memory, and is told as what it is', async (t) => {
  for (const { what, code, timeoutMs = 500, onConnect, onLine } of PEERS) {
    const path = await listen(t, (socket) => {
      const say = (value: unknown) => socket.write(`${JSON.stringify(value)}\r\n`);
      onConnect?.(socket, say);
      createInterface({ input: socket })
        .on('line', (line) => onLine?.(JSON.parse(line) as Line, say, socket))
        .on('error', () => {});
    });
    const before = process.memoryUsage.rss();
    const began = performance.now();
    await t.rejects(Vm.connect(path, { timeoutMs }), { code }, `one that ${what}: ${code}`);
    t.ok(performance.now() - began < timeoutMs + 5_000, 'in bounded time');
    const grownBytes = process.memoryUsage.rss() - before;
    // Up to 133 MiB were seen: both ends are in this process, and garbage is collected when V8 likes. A reader without a
    // bound takes gigabytes in the time that it has.
    t.ok(grownBytes < 256 * MiB, `${Math.round(grownBytes / MiB)} MiB`);
  }
});

async function listen(t: Test, onConnection: (socket: net.Socket) => void): Promise<string> {
  const path = join(tempDir(t), 'peer.sock');
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    t.teardown(() => socket.destroy());
    onConnection(socket);
  });
  t.teardown(() => server.close());
  server.listen(path);
  await once(server, 'listening');
  return path;
}
