/**
 * A real Linux guest is backed up while it runs, restored to two moments, and booted from both. Everything lies in
 * one temporary folder; at the end, however it comes, that goes, with every process in it.
 */
import { randomUUID } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { MiB } from '../../src/base/units.ts';
import { tempDir } from '../../test/helpers/temp-dir.ts';
import { type DiskSpec, qemuBin } from '../../vm-fixtures/guestless.ts';
import { type LinuxGuest, startGuest } from '../../vm-fixtures/linux-guest.ts';
import { Narrator } from './narrator.ts';

interface Point {
  readonly id: string;
  readonly kind: string;
  readonly consistency: string;
  readonly disks: readonly { readonly name: string; readonly file: string; readonly storedBytes: number }[];
  readonly timings: { readonly freezeMs: number | null };
}

const LAUNCHER = fileURLToPath(new URL('../qmpvault', import.meta.url));
const QEMU = '7.2';
const DISKS: readonly DiskSpec[] = [
  { name: 'data', sizeBytes: 256 * MiB },
  { name: 'logs', sizeBytes: 128 * MiB, attach: 'virtio-scsi', iothread: true },
];
/** No stall of the guest may come near to what a user would call one. */
const LONGEST_STALL_S = 2;

// Whoever reads it only to a point (`| head`) has seen enough.
process.stdout.on('error', () => process.exit(1));
const dir = tempDir({ teardown: (undo) => process.on('exit', () => undo()) });
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
  process.on(signal, () => process.exit(128 + constants.signals[signal]));

const tell = new Narrator();
try {
  await demonstrate();
} catch (error) {
  tell.failed(error);
  process.exitCode = 1;
}
process.exit();

async function demonstrate(): Promise<void> {
  tell.title(
    'qmpvault: a running Linux guest is backed up, restored to two moments, and booted from both.',
    `All of it happens in ${dir}, of which nothing will be left.`,
    'Where it says qmpvault you would type: npx qmpvault',
  );

  tell.step('A Linux guest boots');
  const guest = await start('vm');
  tell.say(`QEMU ${guest.vm.qmp.version.text}. Two disks, ext4: data (256 MiB, virtio-blk) and`);
  tell.say('logs (128 MiB, virtio-scsi in a thread of its own). The QEMU guest agent runs in it.');
  tell.say('From now on it writes a heartbeat, dozens of times a second.');
  await guest.sh('while usleep 20000; do cut -d" " -f1 /proc/uptime >>/mnt/logs/heartbeat; done 2>&- &');

  tell.step('Monday: the guest has files');
  await inGuest(guest, 'echo "to do: backups" >/mnt/data/monday.txt');
  await inGuest(guest, 'echo "not finished" >/mnt/data/draft.txt');
  await inGuest(guest, 'dd if=/dev/urandom of=/mnt/data/photos.bin bs=1M count=40 2>&-');
  const monday = await filesOf(guest);

  tell.step('A vault is made, and the first backup, while the guest goes on');
  await qmpvault('init', 'nas');
  const backup = 'backup web1 --vault nas --qmp vm/qmp.sock --agent vm/agent.sock'.split(' ');
  await qmpvault(...backup);
  const [full] = await points();
  tell.proves('a full restore point', full?.kind === 'full', full);
  tell.proves(
    `the guest agent froze the filesystems for its moment, for ${full?.timings.freezeMs} ms`,
    full?.consistency === 'filesystem',
    full,
  );
  await proveAlive(guest);

  tell.step('Tuesday: the guest writes, changes and deletes');
  await inGuest(guest, 'echo "done: backups" >/mnt/data/tuesday.txt');
  await inGuest(guest, 'rm /mnt/data/draft.txt');
  await inGuest(guest, 'dd if=/dev/urandom of=/mnt/data/photos.bin bs=1M seek=7 count=2 conv=notrunc 2>&-');
  const tuesday = await filesOf(guest);

  tell.step('What the next backup will be, and the backup');
  await qmpvault('inspect', 'web1', '--vault', 'nas', '--qmp', 'vm/qmp.sock');
  await qmpvault(...backup);
  const [, incremental] = await points();
  const [fullMiB, thinMiB] = [storedMiB(full), storedMiB(incremental)];
  tell.proves('an incremental restore point', incremental?.kind === 'incremental', incremental);
  tell.proves(`it is thin: ${thinMiB} MiB, where the full has ${fullMiB} MiB`, thinMiB < fullMiB / 3);
  await proveAlive(guest);
  if (full === undefined || incremental === undefined) throw new TypeError('both were just proved');

  tell.step('What the vault holds');
  await qmpvault('list', 'web1', '--vault', 'nas');
  await qmpvault('show', 'web1', 'latest', '--vault', 'nas');

  tell.step('Wednesday: all is lost');
  await inGuest(guest, 'rm -rf /mnt/data/* /mnt/logs/*; sync');
  await guest.kill();
  tell.say('And the VM is killed. Nothing that follows needs it.');

  tell.step('Both moments are restored');
  await qmpvault('restore', 'web1', full.id, '--vault', 'nas', '--to', 'monday');
  await qmpvault('restore', 'web1', 'latest', '--vault', 'nas', '--to', 'tuesday');

  tell.step('No lock-in: plain qemu-img reads the vault as well');
  tell.say('Of Tuesday’s files, which are increments: each names the full below it by a relative link.');
  for (const { name, file } of incremental.disks) {
    await tool('qemu-img', 'convert', '-O', 'raw', `nas/web1/${incremental.id}/${file}`, `${name}.raw`);
    await tool('qemu-img', 'compare', '-F', 'qcow2', `${name}.raw`, `tuesday/${file}`);
    await tool('e2fsck', '-fn', `${name}.raw`);
  }
  tell.proves('byte for byte what qmpvault restored, and fsck finds the filesystems clean', true);

  await proveRestored('monday', monday, 'draft.txt is back, and nothing of Tuesday is there');
  await proveRestored('tuesday', tuesday, 'with Tuesday’s changes, and without what was deleted on Tuesday');

  tell.end('Next: README.md tells how to do this with a VM of yours.');
}

/** A guest in a folder, on the images that are there. */
function start(folder: string): Promise<LinuxGuest> {
  mkdirSync(join(dir, folder), { recursive: true });
  return startGuest({ qemu: QEMU, dir: join(dir, folder), disks: DISKS, name: 'web1', uuid: randomUUID() });
}

async function proveRestored(day: string, truth: string, words: string): Promise<void> {
  tell.step(`A new guest boots from ${day}`);
  const guest = await start(day);
  const found = await filesOf(guest);
  tell.output(found.replaceAll(/^(.{12})\S+/gm, '$1…'));
  tell.proves(`exactly the files of ${day}, each with its checksum: ${words}`, found === truth, {
    found,
    truth,
  });
  await guest.kill();
}

async function inGuest(guest: LinuxGuest, line: string): Promise<void> {
  tell.command('guest#', line);
  await guest.sh(line);
}

/** Every file with its checksum, but the heartbeat, which never stands still. */
async function filesOf(guest: LinuxGuest): Promise<string> {
  return guest.sh('cd /mnt; find . -type f ! -name heartbeat | sort | xargs sha256sum');
}

/** By the guest's own clock, over everything since it booted. */
async function proveAlive(guest: LinuxGuest): Promise<void> {
  const beats = (await guest.sh('cat /mnt/logs/heartbeat')).trimEnd().split('\n').map(Number);
  const gaps = beats.slice(1).map((beat, i) => beat - (beats[i] ?? 0));
  const longest = Math.max(...gaps);
  tell.proves(
    `the guest ran on: ${beats.length} heartbeats, never more than ${longest.toFixed(2)} s apart`,
    longest < LONGEST_STALL_S,
    { longest },
  );
}

async function points(): Promise<readonly Point[]> {
  const { stdout } = await run(LAUNCHER, ['list', 'web1', '--vault', 'nas', '--json']);
  return JSON.parse(stdout).points;
}

function storedMiB(point: Point | undefined): number {
  const bytes = (point?.disks ?? []).reduce((sum, { storedBytes }) => sum + storedBytes, 0);
  return Math.round((10 * bytes) / MiB) / 10;
}

/** The command line as its users have it; its progress and warnings go straight to the terminal. */
async function qmpvault(...args: readonly string[]): Promise<void> {
  tell.command('$', `qmpvault ${args.join(' ')}`);
  const { stdout } = await run(LAUNCHER, args, { stderr: 'inherit' });
  tell.output(stdout);
}

async function tool(name: string, ...args: readonly string[]): Promise<void> {
  tell.command('$', `${name} ${args.join(' ')}`);
  await run(name, args);
}

/** Runs it in the folder of the demonstration. @throws when it fails */
function run(program: string, args: readonly string[], options: { stderr?: 'inherit' } = {}) {
  return execa(program, args, {
    ...options,
    cwd: dir,
    stdin: 'ignore',
    env: {
      // e2fsck is no command for everybody.
      PATH: `${process.env['PATH']}:/usr/sbin:/sbin`,
      QMPVAULT_STATE_DIR: join(dir, 'state'),
      QMPVAULT_RUNTIME_DIR: join(dir, 'run'),
      QMPVAULT_SCRATCH_DIR: join(dir, 'scratch'),
      QMPVAULT_QEMU_BIN: qemuBin(QEMU),
    },
  });
}
