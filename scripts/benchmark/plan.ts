/** How much is measured: enough for medians that can be trusted, or (`--quick`) in under a minute. */
import { GiB, MiB } from '../../src/base/units.ts';

export interface Extent {
  readonly diskBytes: number;
  readonly dataBytes: number;
  readonly fulls: number;
  readonly incrementals: number;
  readonly emptyFulls: number;
  readonly hugeGib: number;
  readonly vms: number;
  /** Of 30 points each. */
  readonly listedVms: number;
}

export const WHOLE: Extent = {
  diskBytes: 2 * GiB,
  dataBytes: GiB,
  fulls: 5,
  incrementals: 9,
  emptyFulls: 3,
  hugeGib: 2048,
  vms: 50,
  listedVms: 1000,
};

export const QUICK: Extent = {
  diskBytes: 512 * MiB,
  dataBytes: 256 * MiB,
  fulls: 3,
  incrementals: 3,
  emptyFulls: 1,
  hugeGib: 2048,
  vms: 10,
  listedVms: 100,
};
