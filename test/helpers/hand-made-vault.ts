/** Vaults with real chains of images, made without a VM: what is in them is known byte by byte. */
import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { execa } from 'execa';
import type { DiskName, VmName } from '../../src/base/ids.ts';
import { MiB } from '../../src/base/units.ts';
import { createImage } from '../../src/image/qemu-img.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { backingLinkTo } from '../../src/vault/links.ts';
import type { Manifest, ManifestDisk } from '../../src/vault/manifest.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import { initVault, type Vault } from '../../src/vault/vault.ts';
import { type Teardown, tempDir } from './temp-dir.ts';
import { diskOf, manifestOf, point } from './vault-files.ts';

/** `pattern` from an offset on, for a length; pattern 0 writes zeroes as such; a path writes that file. */
export type Write = readonly [pattern: number | string, offsetBytes: number, lengthBytes: number];

export interface PointSpec {
  readonly vm?: string;
  readonly parent?: Manifest;
  /** By disk; a disk that the parent does not have is a full. */
  readonly writes: Readonly<Record<string, readonly Write[]>>;
  readonly sizeBytes?: number;
  readonly createdAt?: string;
}

const tools = qemuTools();

export class HandMadeVault {
  /** The test's own folder, with the vault in `vault` and what this host remembers in `state`. */
  readonly dir: string;
  readonly memory: VaultMemory;
  readonly vault: Vault;
  readonly #truthDir: string;
  /** All that made a disk what it is at a point. */
  readonly #writes = new Map<string, readonly Write[]>();
  #minutes = 0;

  private constructor(dir: string, truthDir: string, memory: VaultMemory, vault: Vault) {
    this.dir = dir;
    this.#truthDir = truthDir;
    this.memory = memory;
    this.vault = vault;
  }

  static async create(t: Teardown): Promise<HandMadeVault> {
    const dir = tempDir(t);
    const memory = new VaultMemory(join(dir, 'state'));
    return new HandMadeVault(dir, tempDir(t), memory, await initVault(join(dir, 'vault'), { memory }));
  }

  /** A full, then two increments: `p1`, `p2`, `p3` of web1 with the disks vda and vdb, 4 MiB each. */
  static async withChain(t: Teardown): Promise<HandMadeVault & { points: Manifest[] }> {
    const made = await HandMadeVault.create(t);
    const p1 = await made.add('p1', {
      writes: { vda: [[1, 0, MiB]], vdb: [[2, 65536, 3 * MiB]] },
    });
    const p2 = await made.add('p2', {
      parent: p1,
      writes: { vda: [[3, 512 * 1024, MiB]], vdb: [[0, MiB, MiB]] },
    });
    const p3 = await made.add('p3', { parent: p2, writes: { vda: [[4, 4096, 100]], vdb: [] } });
    return Object.assign(made, { points: [p1, p2, p3] });
  }

  async add(
    id: string,
    { vm: name = 'web1', parent, writes, sizeBytes, createdAt }: PointSpec,
  ): Promise<Manifest> {
    const vm = this.vault.vm(name);
    await using lease = await vm.acquireLease({ what: 'a test' });
    const staging = await vm.createStaging(point(id), lease);
    const disks: ManifestDisk[] = [];
    for (const [disk, toWrite] of Object.entries(writes)) {
      const under = parent?.disks.find((d) => d.name === disk);
      const size = sizeBytes ?? under?.virtualSizeBytes ?? 4 * MiB;
      const file = `${disk}.qcow2`;
      const path = staging.diskPath(file);
      const backing = parent && under && { link: backingLinkTo(parent.id, under.file), format: 'qcow2' };
      await createImage(tools, { path, format: 'qcow2', sizeBytes: size, ...(backing && { backing }) });
      await writeInto(path, toWrite);
      await staging.hold(file);
      const before = parent && this.#writes.get(`${name}/${parent.id}/${disk}`);
      const all = [...(before ?? []), ...toWrite];
      this.#writes.set(`${name}/${id}/${disk}`, all);
      mkdirSync(join(this.#truthDir, name, id), { recursive: true });
      writeRaw(this.truthFile(id, disk, name), size, all);
      disks.push(
        diskOf({
          name: disk as DiskName,
          kind: under ? 'incremental' : 'full',
          file,
          virtualSizeBytes: size,
          storedBytes: statSync(path).size,
        }),
      );
    }
    this.#minutes += 1;
    const manifest = manifestOf(id, {
      vm: { name: name as VmName, uuid: '7d5b6a0e-9d5c-4d84-8b6c-2f6a9a0a7e11' },
      vault: this.vault.id,
      createdAt: createdAt ?? new Date(Date.UTC(2026, 10, 20, 8, this.#minutes)).toISOString(),
      parent: parent?.id ?? null,
      disks,
    });
    await staging.publish(manifest, lease);
    return manifest;
  }

  /** What a disk held at a point. */
  truth(id: string, disk: string, vm = 'web1'): Buffer {
    return readFileSync(this.truthFile(id, disk, vm));
  }

  /** The same as a file: with large buffers at hand a process takes long to start others. */
  truthFile(id: string, disk: string, vm = 'web1'): string {
    return join(this.#truthDir, vm, id, disk);
  }

  file(id: string, disk: string, vm = 'web1'): string {
    return join(this.vault.path, vm, id, `${disk}.qcow2`);
  }
}

function writeRaw(path: string, sizeBytes: number, writes: readonly Write[]): void {
  const file = openSync(path, 'w');
  for (const [pattern, offset, length] of writes) {
    const bytes = typeof pattern === 'string' ? readFileSync(pattern) : Buffer.alloc(length, pattern);
    writeSync(file, bytes, 0, length, offset);
  }
  ftruncateSync(file, sizeBytes);
  closeSync(file);
}

async function writeInto(path: string, writes: readonly Write[]): Promise<void> {
  if (writes.length === 0) return;
  const commands = writes.map(([pattern, offset, length]) =>
    pattern === 0
      ? `write -z ${offset} ${length}`
      : `write ${typeof pattern === 'string' ? '-s' : '-P'} ${pattern} ${offset} ${length}`,
  );
  await execa('qemu-io', ['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), path]);
}

/** What an image holds, read by qemu-img. */
export async function contentsOf(t: Teardown, path: string, format: string): Promise<Buffer> {
  const raw = join(tempDir(t), 'raw');
  await execa('qemu-img', ['convert', '-f', format, '-O', 'raw', path, raw]);
  return readFileSync(raw);
}
