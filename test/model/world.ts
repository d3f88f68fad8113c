/**
 * What the model plays with: a VM, two vaults and an engine; and beside them the shadow that knows what is true: what
 * each disk holds, and what it held at the moment of each point. The shadow is kept by what was written, never by
 * asking the engine.
 */
import { mkdirSync } from 'node:fs';
import { copyFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Engine } from '../../src/backup/engine.ts';
import { type DiskName, type PointId, type RunId, vmName } from '../../src/base/ids.ts';
import { silent } from '../../src/base/log.ts';
import { noSteps } from '../../src/base/steps.ts';
import { GiB } from '../../src/base/units.ts';
import { qemuTools } from '../../src/image/tools.ts';
import { changeFinisher } from '../../src/upkeep/delete.ts';
import { VaultMemory } from '../../src/vault/memory.ts';
import { initVault, openVault, type Vault } from '../../src/vault/vault.ts';
import type { VmFolder } from '../../src/vault/vm-folder.ts';
import {
  type DiskSpec,
  type FixtureVm,
  type QemuVersion,
  qemuBin,
  startVm,
} from '../../vm-fixtures/guestless.ts';
import { smallTmpfs } from '../helpers/small-tmpfs.ts';
import type { Teardown } from '../helpers/temp-dir.ts';
import { Content } from './content.ts';
import type { Tally } from './tally.ts';

export const VM = vmName('vm1');
export const NAS_BYTES = 2 * GiB;

/** One of the images that a disk consists of: the lowest, and overlays of external snapshots. */
export interface Image {
  readonly path: string;
  readonly format: 'qcow2' | 'raw';
}

export interface ModelDisk {
  readonly spec: DiskSpec;
  content: Content;
  /** Lowest first; the VM writes to the last. */
  images: Image[];
  /** The node of the last one, in the present life of the VM. */
  node: string;
}

export type Contents = ReadonlyMap<string, Content>;

export interface ModelVault {
  vault: Vault;
  /** What each point's disks held at its moment, oldest point first. */
  readonly points: Map<PointId, Contents>;
  /** A command died in it, and what it left may be there until the next one has run. */
  isUnsettled: boolean;
  /** The disks still have the images of the last point: then none of its bitmaps can be an old one. */
  isFresh: boolean;
  /** What the disks held at the moments of runs whose engines were killed: the next backup may finish their points. */
  readonly dead: Map<RunId, Contents>;
  /** Points that the dead command was deleting: each may be there or not. */
  readonly doubtful: Set<PointId>;
}

/** The disks as they once were, put aside while the VM was stopped. */
interface Saved {
  readonly content: Content;
  readonly images: readonly { readonly image: Image; readonly copy: string }[];
}

export interface Layout {
  readonly disks: readonly DiskSpec[];
  /** Plugged in and out. */
  readonly spare: DiskSpec;
}

export class World {
  readonly qemu: QemuVersion;
  readonly vm: FixtureVm;
  readonly engine: Engine;
  readonly tally: Tally;
  /** A filesystem for the VM's images and the engine's folders. */
  readonly lab: string;
  /** One for the vaults. */
  readonly nas: string;
  /** What the engine warned of, since the operation began. */
  readonly warnings: string[] = [];
  readonly vaults: ModelVault[] = [];
  readonly spare: DiskSpec;
  /** Also those that are not plugged in now. */
  readonly disks = new Map<string, ModelDisk>();
  #saved: Map<string, Saved> | null = null;
  #names = 0;

  private constructor(
    vm: FixtureVm,
    qemu: QemuVersion,
    lab: string,
    nas: string,
    layout: Layout,
    tally: Tally,
  ) {
    this.vm = vm;
    this.qemu = qemu;
    this.lab = lab;
    this.nas = nas;
    this.spare = layout.spare;
    this.tally = tally;
    this.engine = {
      stateDir: join(lab, 'state'),
      runtimeDir: join(lab, 'run'),
      scratchDir: join(lab, 'scratch'),
      tools: qemuTools(qemuBin(qemu)),
      version: 'model',
      log: { ...silent, warn: (_, message) => void this.warnings.push(message) },
      reachStep: noSteps,
    };
  }

  static async start(t: Teardown, qemu: QemuVersion, layout: Layout, tally: Tally): Promise<World> {
    const lab = smallTmpfs(t, 4 * GiB);
    const nas = smallTmpfs(t, NAS_BYTES);
    const dir = join(lab, 'vm');
    mkdirSync(dir);
    const vm = await startVm({
      qemu,
      dir,
      disks: layout.disks,
      uuid: '5f3a0c11-0000-4000-8000-000000000001',
    });
    t.teardown(() => vm.kill());
    const world = new World(vm, qemu, lab, nas, layout, tally);
    mkdirSync(world.engine.stateDir);
    for (const spec of layout.disks) await world.meet(spec);
    for (const name of ['a', 'b']) {
      const vault = await initVault(join(nas, name), world.#vaultOptions);
      world.vaults.push({
        vault,
        points: new Map(),
        isUnsettled: false,
        isFresh: false,
        dead: new Map(),
        doubtful: new Set(),
      });
    }
    return world;
  }

  get isUnsettled(): boolean {
    return this.vaults.some((vault) => vault.isUnsettled);
  }

  /** Those that the VM has now. */
  get attached(): ModelDisk[] {
    return this.vm.disks.map(({ name }) => this.disk(name));
  }

  disk(name: string): ModelDisk {
    const disk = this.disks.get(name);
    if (disk === undefined) throw new Error(`the model knows no disk ${name}`);
    return disk;
  }

  /** What all disks hold now. */
  contents(): Contents {
    return new Map([...this.disks].map(([name, { content }]) => [name, content]));
  }

  folder({ vault }: ModelVault): VmFolder {
    return vault.vm(VM);
  }

  /** The disk consists of other images from now on. */
  consistsOf(disk: ModelDisk, images: Image[]): void {
    disk.images = images;
    for (const vault of this.vaults) vault.isFresh = false;
    const fixture = this.vm.disks.find(({ name }) => name === disk.spec.name);
    if (fixture)
      Object.assign(fixture, { image: this.imageOf(disk).path, format: this.imageOf(disk).format });
  }

  imageOf({ images, spec }: ModelDisk): Image {
    const image = images.at(-1);
    if (image === undefined) throw new Error(`${spec.name} has no image`);
    return image;
  }

  /** A disk that the VM has for the first time; what its image holds is what it begins with. */
  async meet(spec: DiskSpec): Promise<void> {
    const { name, image, format } = this.vm.disk(spec.name);
    const images = [{ path: image, format }];
    this.disks.set(name, { spec, images, node: name, content: Content.zeroes(spec.sizeBytes) });
    this.disk(name).content = await this.read(name);
  }

  /** What a disk holds, as QEMU's own tools read it. */
  async read(name: string): Promise<Content> {
    return this.throughFile((file) => this.vm.truth(name, file));
  }

  async throughFile(write: (file: string) => Promise<unknown>): Promise<Content> {
    const file = join(this.lab, this.newName('raw'));
    try {
      await write(file);
      return await Content.ofRaw(file);
    } finally {
      await rm(file, { force: true });
    }
  }

  newName(what: string): string {
    this.#names += 1;
    return `${what}-${this.#names}`;
  }

  /** Starts the VM on the images that its disks have now. */
  async startVm(): Promise<void> {
    for (const disk of this.attached) disk.node = disk.spec.name;
    await this.vm.restart();
  }

  get hasSaved(): boolean {
    return this.#saved !== null;
  }

  /** Puts the images of the stopped VM aside. */
  async save(): Promise<void> {
    for (const { images } of this.#saved?.values() ?? []) {
      for (const { copy } of images) await rm(copy, { force: true });
    }
    this.#saved = new Map();
    for (const { spec, content, images } of this.attached) {
      const copies = [];
      for (const image of images) {
        const copy = join(this.lab, this.newName('saved'));
        await copyFile(image.path, copy);
        copies.push({ image, copy });
      }
      this.#saved.set(spec.name, { content, images: copies });
    }
  }

  /** Puts the images that were saved back under the stopped VM. @returns the disks that were rolled back */
  async rollBack(names: readonly string[]): Promise<string[]> {
    const done: string[] = [];
    for (const name of names) {
      const saved = this.#saved?.get(name);
      if (saved === undefined) continue;
      const disk = this.disk(name);
      const images = saved.images.map(({ image }) => image);
      await this.removeOthers(disk, images);
      for (const { image, copy } of saved.images) await copyFile(copy, image.path);
      this.consistsOf(disk, images);
      disk.content = saved.content;
      done.push(name);
    }
    return done;
  }

  /** Images that the disk had: one that is left there is what an engine remembers that has not seen the VM since. */
  async removeOthers(disk: ModelDisk, images: readonly Image[]): Promise<void> {
    const gone = disk.images.filter(({ path }) => !images.some((image) => image.path === path));
    for (const { path } of gone) await rm(path, { force: true });
  }

  /** The NAS is mounted somewhere else from now on. */
  async moveVault(moved: ModelVault): Promise<void> {
    const path = join(this.nas, this.newName('vault'));
    await rename(moved.vault.path, path);
    moved.vault = await openVault(path, this.#vaultOptions);
  }

  /** What a disk of a point held. */
  truthOf({ points }: ModelVault, point: PointId, disk: DiskName): Content {
    const content = points.get(point)?.get(disk);
    if (content === undefined) throw new Error(`${disk} of ${point} is not known to the model`);
    return content;
  }

  get #vaultOptions() {
    return { memory: new VaultMemory(this.engine.stateDir), finishChange: changeFinisher(this.engine) };
  }
}
