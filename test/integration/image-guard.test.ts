/** The guard beside a real QEMU: an engine in a process of its own is killed or stopped in the middle of a pause. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import t from 'tap';
import { QmpClient } from '../../qmp/index.ts';
import { until } from '../../src/base/deadline.ts';
import { describe } from '../../src/image/process-id.ts';
import type { FixtureVm } from '../../vm-fixtures/guestless.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { ScriptedPeer } from '../helpers/scripted-peer.ts';
import type { Teardown } from '../helpers/temp-dir.ts';
import { testVm } from '../helpers/vm.ts';

type EngineProcess = ChildProcessByStdio<Writable, Readable, null>;

/**
 * An engine that connects to the VM and starts a guard. It then does what it is told line by line: JavaScript with
 * `client` and `guard` in scope; `say(value)` answers.
 */
class Engine {
  readonly #child: EngineProcess;
  readonly #answers: AsyncIterator<string>;

  private constructor(child: EngineProcess) {
    this.#child = child;
    this.#answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  static async start(t: Teardown, vm: FixtureVm, { agent = '', limitMs = 60_000 } = {}): Promise<Engine> {
    const root = new URL('../../', import.meta.url);
    const script = `
      import net from 'node:net';
      import { once } from 'node:events';
      import { createInterface } from 'node:readline';
      import { QmpClient } from '${root}qmp/index.ts';
      import { Guard } from '${root}src/image/guard.ts';
      const say = (value) => console.log(JSON.stringify(value ?? null));
      const client = await QmpClient.connect({ path: ${JSON.stringify(vm.qmpSocket)} });
      const agent = ${JSON.stringify(agent)} ? net.connect(${JSON.stringify(agent)}) : undefined;
      if (agent) await once(agent, 'connect');
      const guard = await Guard.start({ qmp: client.socket, agent, limitMs: ${limitMs} });
      say();
      for await (const line of createInterface({ input: process.stdin })) {
        await eval('(async () => {' + line + '})()');
      }`;
    const child: EngineProcess = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    t.teardown(() => child.kill('SIGKILL'));
    const engine = new Engine(child);
    await engine.answer();
    return engine;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Does the steps, and answers with what they say. */
  async does(steps: string): Promise<unknown> {
    this.#child.stdin.write(`${steps.replaceAll('\n', ' ')}\n`);
    return this.answer();
  }

  async answer(): Promise<unknown> {
    return JSON.parse((await this.#answers.next()).value);
  }

  /** SIGKILL, and seen to have ended. */
  async kill(): Promise<void> {
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
  }
}

function childrenOf(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim();
  return children.split(' ').map(Number);
}

async function statusOf(vm: FixtureVm): Promise<string> {
  return ((await vm.qmp.execute('query-status')) as { status: string }).status;
}

/** A monitor serves one client: the next one is greeted when the guard's duplicate is gone too. */
async function guardIsGone(vm: FixtureVm): Promise<void> {
  await using next = await QmpClient.connect({ path: vm.qmpSocket });
  await next.execute('query-version');
}

/** How long it takes until the guest goes on. */
async function resumeOf(vm: FixtureVm, act: () => Promise<unknown>): Promise<number> {
  using events = vm.qmp.listen(({ name }) => name === 'RESUME');
  const began = performance.now();
  await act();
  await events.next({ timeoutMs: 5_000 });
  return performance.now() - began;
}

const ANNOUNCE = 'await guard.pausing(); say();';
const PAUSE = "await guard.pausing(); await client.execute('stop'); say();";

for (const qemu of qemuVersions(['7.2', '11.1'])) {
  const start = (t: Teardown, extraArgs: string[] = []) => testVm(t, { qemu, disks: [], extraArgs });

  t.test(`QEMU ${qemu}: a guest whose engine is killed in a pause goes on at once`, async (t) => {
    const vm = await start(t);
    const it = await Engine.start(t, vm);
    await it.does(PAUSE);
    t.equal(await statusOf(vm), 'paused');
    const tookMs = await resumeOf(vm, () => it.kill());
    t.comment({ tookMs });
    t.ok(tookMs < 3_000);
    t.equal(await statusOf(vm), 'running');
    await guardIsGone(vm);
  });

  t.test(`QEMU ${qemu}: a guest whose engine hangs in a pause goes on after the limit`, async (t) => {
    const vm = await start(t);
    const it = await Engine.start(t, vm, { limitMs: 1_000 });
    await it.does(PAUSE);
    const tookMs = await resumeOf(vm, async () => process.kill(it.pid, 'SIGSTOP'));
    t.comment({ tookMs });
    t.ok(tookMs < 3_000);
    t.equal(await statusOf(vm), 'running');
    await it.kill();
    await guardIsGone(vm);
  });

  t.test(
    `QEMU ${qemu}: an engine that hung and revives finds the guard gone, and the guest running`,
    async (t) => {
      const vm = await start(t);
      const it = await Engine.start(t, vm, { limitMs: 300 });
      await it.does(PAUSE);
      // Blocks the whole process, as a file operation that hangs does.
      const steps = `Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_500);
      say(await guard.resumed().catch(({ code, details }) => ({ code, details })));`;
      const outcome = await it.does(steps);
      t.match(outcome, { code: 'guard-failed', details: { acted: true } });
      t.equal(await statusOf(vm), 'running');
    },
  );

  t.test(`QEMU ${qemu}: killed with stop on its way, the guest does not stay paused`, async (t) => {
    const vm = await start(t);
    const it = await Engine.start(t, vm);
    await it.does(ANNOUNCE);
    process.kill(vm.pid, 'SIGSTOP');
    await it.does("client.execute('stop').catch(() => {}); say();");
    await it.kill();
    const tookMs = await resumeOf(vm, async () => process.kill(vm.pid, 'SIGCONT'));
    t.ok(tookMs < 5_000);
    await guardIsGone(vm);
    t.equal(await statusOf(vm), 'running');
  });

  t.test(`QEMU ${qemu}: killed before stop, nothing is resumed`, async (t) => {
    const vm = await start(t);
    using events = vm.qmp.listen();
    const it = await Engine.start(t, vm);
    await it.does(ANNOUNCE);
    await it.kill();
    await guardIsGone(vm);
    t.same(events.take(), []);
    t.equal(await statusOf(vm), 'running');
  });

  t.test(`QEMU ${qemu}: an operator's pause is never ended when none was announced`, async (t) => {
    const vm = await start(t);
    const it = await Engine.start(t, vm, { limitMs: 1 });
    await vm.stop();
    await it.kill();
    await guardIsGone(vm);
    t.equal(await statusOf(vm), 'paused');
  });

  t.test(`QEMU ${qemu}: an operator's pause after our own is never ended`, async (t) => {
    const vm = await start(t);
    const it = await Engine.start(t, vm, { limitMs: 100 });
    await it.does(PAUSE);
    await it.does("await client.execute('cont'); await guard.resumed(); say();");
    await vm.stop();
    await it.kill();
    await guardIsGone(vm);
    t.equal(await statusOf(vm), 'paused');
  });

  const STATES = { inmigrate: ['-incoming', 'defer'], prelaunch: ['-S'] };
  for (const [status, args] of Object.entries(STATES)) {
    t.test(`QEMU ${qemu}: a VM in ${status} is left as it is`, async (t) => {
      const vm = await start(t, args);
      const it = await Engine.start(t, vm);
      await it.does(ANNOUNCE);
      t.equal(await statusOf(vm), status);
      await it.kill();
      await guardIsGone(vm);
      t.equal(await statusOf(vm), status);
    });
  }

  t.test(`QEMU ${qemu}: a VM that is gone does not keep the guard`, async (t) => {
    const vm = await start(t);
    const it = await Engine.start(t, vm);
    await it.does(PAUSE);
    const guard = childrenOf(it.pid)[0] ?? 0;
    t.ok(await describe(guard));
    await vm.kill();
    await it.kill();
    await until(async () => ((await describe(guard)) === null ? true : undefined), { what: 'its end' });
  });

  t.test(`QEMU ${qemu}: killed in a freeze and a pause, the guest goes on and is thawed`, async (t) => {
    const vm = await start(t);
    const agent = await ScriptedPeer.listen(t);
    const starting = Engine.start(t, vm, { agent: agent.path });
    const peer = await agent.accept(t);
    const it = await starting;
    await it.does(`await guard.freezing(); ${PAUSE}`);
    await resumeOf(vm, () => it.kill());
    const { arguments: sync } = await peer.request();
    t.match(await peer.request(), { execute: 'guest-fsfreeze-thaw' });
    t.match(await peer.request(), { execute: 'guest-fsfreeze-status' });
    peer.send({ return: sync?.['id'] }, { return: 2 }, { return: 'thawed' });
    await peer.closed();
    await guardIsGone(vm);
  });
}
