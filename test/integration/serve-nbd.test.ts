/** The disks of a point over NBD: a single file out of a point, and what is left when the server ends. */
import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import t, { type Test } from 'tap';
import { backUp } from '../../src/backup/backup.ts';
import { until } from '../../src/base/deadline.ts';
import { EXIT } from '../../src/base/errors.ts';
import { diskName, vmName } from '../../src/base/ids.ts';
import { rebaseImage } from '../../src/image/qemu-img.ts';
import { restoreInstantly } from '../../src/restore/instant.ts';
import { servePoint } from '../../src/restore/serve.ts';
import { changeFinisher, deletePoint } from '../../src/upkeep/delete.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import { openVault } from '../../src/vault/vault.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { cli } from '../helpers/cli.ts';
import { type TestSite, testSite, writerPid } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { readOnlyView } from '../helpers/read-only-view.ts';
import { processesIn } from '../helpers/temp-dir.ts';

interface Serving {
  readonly socket: string;
  readonly exports: readonly { disk: string; uri: string; virtualSizeBytes: number }[];
}

const vm1 = vmName('vm1');

/** A stopped VM with one ext4, backed up with the file `hello` as "one", then as "two". */
async function given(t: Test, bin: string) {
  const site = await testSite(t, { bin });
  const files = join(site.dir, 'files');
  mkdirSync(files);
  writeFileSync(join(files, 'hello'), 'one');
  const image = join(site.dir, 'data.raw');
  await execa('/sbin/mkfs.ext4', ['-q', '-d', files, image, '16M']);
  const request = { vm: vm1, quiesce: 'auto', fullEvery: 10 } as const;
  const images = new Map([[diskName('data'), image]]);
  const { point: first } = await backUp(site.engine, site.vault, { ...request, images }, {});
  writeFileSync(join(files, 'hello'), 'two');
  await debugfs(image, '-w', '-R', 'rm hello');
  await debugfs(image, '-w', '-R', `write ${join(files, 'hello')} hello`);
  const { point: second } = await backUp(site.engine, site.vault, request, {});
  t.match([first.kind, second.kind], ['full', 'incremental']);
  return { site, bin, first, second };
}

async function debugfs(image: string, ...args: string[]): Promise<string> {
  return (await execa('/sbin/debugfs', [...args, image])).stdout;
}

/** Without the kernel's nbd module: the export as a file, and a file out of that. */
async function helloIn({ exports }: Serving, site: TestSite): Promise<string> {
  const copy = join(site.dir, 'copy.raw');
  await execa(site.engine.tools.qemuImg, ['convert', '-f', 'raw', '-O', 'raw', exports[0]!.uri, copy]);
  return debugfs(copy, '-R', 'cat hello');
}

/** The command, as soon as it serves. */
async function serve(t: Test, site: TestSite, bin: string, ...args: string[]) {
  const argv = ['serve-nbd', 'vm1', ...args, '--vault', site.vault.path, '--qemu-bin', bin];
  const command = cli(site, argv);
  t.teardown(() => command.kill('SIGKILL'));
  let said = '';
  command.stdout.on('data', (chunk: Buffer) => {
    said += chunk;
  });
  const serving = await until(
    async () => {
      if (command.exitCode !== null) throw new Error(`it ended: ${said}`);
      return said.endsWith('}\n') ? (JSON.parse(said) as { serving: Serving }).serving : undefined;
    },
    { what: 'serving', timeoutMs: 20_000 },
  );
  return { command, serving };
}

/** Opened as a command that changes points does it. */
async function removeFirst({ site, first }: { site: TestSite; first: { id: string } }) {
  const memory = new VaultMemory(site.engine.stateDir);
  const vault = await openVault(site.vault.path, { memory, finishChange: changeFinisher(site.engine) });
  return deletePoint(site.engine, vault, { vm: vm1, point: first.id, descendants: 'keep' });
}

function expectNothingLeft(t: Test, site: TestSite): void {
  t.same(readdirSync(join(site.vault.path, 'vm1', 'readers')), [], 'no reader is registered');
  t.same(readdirSync(site.engine.runtimeDir), [], 'no socket, no folder');
  t.same(processesIn(site.engine.runtimeDir), [], 'no process');
}

for (const version of qemuVersions(['7.2', '11.1'])) {
  t.test(
    `QEMU ${version}: a single file comes out of either point, and serving ends as if it had not been`,
    async (t) => {
      const all = await given(t, qemuBin(version));
      const { site, bin, first } = all;
      const latest = await serve(t, site, bin);
      t.match(latest.serving, {
        vm: 'vm1',
        point: all.second.id,
        exports: [{ disk: 'data', virtualSizeBytes: 16 * 1024 ** 2 }],
      });
      t.equal(statSync(latest.serving.socket).mode & 0o777, 0o600, "not for everybody's eyes");
      t.equal(await helloIn(latest.serving, site), 'two');

      const older = await serve(t, site, bin, first.id, '--listen', join(site.dir, 'older'));
      t.equal(older.serving.socket, join(site.dir, 'older'));
      t.equal(await helloIn(older.serving, site), 'one', 'two points at once');
      const uri = older.serving.exports[0]!.uri;
      const written = await execa(site.engine.tools.qemuIo, ['-f', 'raw', '-c', 'write 0 512', uri], {
        reject: false,
      });
      t.not(written.exitCode, 0, 'it is read-only');
      await t.rejects(removeFirst(all), { code: 'vault-locked' }, 'nobody changes what is served');

      for (const [{ command, serving }, signal] of [
        [latest, 'SIGTERM'],
        [older, 'SIGINT'],
      ] as const) {
        command.kill(signal);
        t.equal((await command).exitCode, EXIT.done, `${signal} is how it ends`);
        t.notOk(existsSync(serving.socket));
      }
      expectNothingLeft(t, site);
      t.match(await removeFirst(all), { removed: [first.id] });
    },
  );
}

t.test('a server that was killed keeps nobody from anything', async (t) => {
  const [version = '7.2'] = qemuVersions(['7.2', '11.1']);
  const all = await given(t, qemuBin(version));
  const { site, bin } = all;
  const socket = join(site.dir, 's');
  const killed = await serve(t, site, bin, '--listen', socket);
  const pid = await writerPid(site);
  killed.command.kill('SIGKILL');
  await killed.command;
  await until(async () => (existsSync(`/proc/${pid}`) ? undefined : true), { what: 'the end of its daemon' });
  t.match(await removeFirst(all), { removed: [all.first.id] }, 'its registration counts no more');

  const again = await serve(t, site, bin, '--listen', socket);
  t.equal(await helloIn(again.serving, site), 'two', 'nor does its socket');
  const taken = await cli(site, ['serve-nbd', 'vm1', '--vault', site.vault.path, '--listen', socket]);
  t.match(JSON.parse(taken.stdout), { error: { code: 'target-exists' } }, 'a living one is not pushed aside');
  process.kill(await writerPid(site), 'SIGKILL');
  const { exitCode, stdout, stderr } = await again.command;
  t.match({ exitCode, stderr }, { exitCode: EXIT.run, stderr: /ended while it served/ });
  t.match(JSON.parse(stdout), { serving: {} }, 'one document, whatever comes after it');
  expectNothingLeft(t, site);

  await rebaseImage(site.engine.tools, {
    path: join(site.vault.path, 'vm1', all.second.id, 'data.qcow2'),
    backing: { link: '/etc/shadow', format: 'raw' },
    headerOnly: true,
  });
  const hostile = await cli(site, ['serve-nbd', 'vm1', '--vault', site.vault.path]);
  t.match(JSON.parse(hostile.stdout), { error: { code: 'link-refused' } }, 'as in a restore');
  expectNothingLeft(t, site);
});

t.test('a vault that is mounted read-only is served, and not stood on', async (t) => {
  const [version = '7.2'] = qemuVersions(['7.2', '11.1']);
  const { site, second } = await given(t, qemuBin(version));
  const vault = await openVault(readOnlyView(t, site.vault.path), { memory: new VaultMemory(site.dir) });
  const enough = new AbortController();
  const serving = servePoint(
    site.engine,
    vault,
    { vm: vm1, point: second.id },
    {
      signal: enough.signal,
      onServing: (served) => {
        t.match(served.warnings, [/nobody knows that it is being read/]);
        void helloIn(served, site).then((hello) => {
          t.equal(hello, 'two');
          enough.abort();
        }, enough.abort);
      },
    },
  );
  t.match(await serving, { point: second.id });
  const target = { dir: join(site.dir, 'overlays') };
  const instant = restoreInstantly(site.engine, vault, { vm: vm1, point: second.id, target });
  await t.rejects(instant, { code: 'vault-unreadable' }, 'nobody would know that the point is needed');
  t.notOk(existsSync(target.dir));
});
