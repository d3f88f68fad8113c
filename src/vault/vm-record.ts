/** vm.json: what was last seen of a VM, so that it can be backed up while it does not run. */
import { z } from 'zod';
import { type DiskName, diskName, type VmName, vmName } from '../base/ids.ts';
import { FORMAT, named, parseVaultJson } from './manifest.ts';

export interface VmRecord {
  format: typeof FORMAT;
  name: VmName;
  uuid: string;
  disks: { name: DiskName; image: string; format: string; device: string; virtualSizeBytes: number }[];
  updatedAt: string;
}

const schema: z.ZodType<VmRecord> = z.looseObject({
  format: z.literal(FORMAT),
  name: named(vmName),
  uuid: z.string(),
  disks: z.array(
    z.looseObject({
      name: named(diskName),
      image: z.string(),
      format: z.string(),
      device: z.string(),
      virtualSizeBytes: z.int().nonnegative(),
    }),
  ),
  updatedAt: z.iso.datetime(),
});

/** @throws manifest-invalid, vault-format */
export function parseVmRecord(text: string, where: string): VmRecord {
  return parseVaultJson(schema, text, where);
}
