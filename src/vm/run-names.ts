/**
 * The names of what a run creates inside a VM. Each carries the run's id, so that leftovers can be told from what
 * a living run owns: `qv-<run>-<role><disk index>`, always below QEMU's limit of 31 characters.
 */
import { NODE_PREFIX, type RunId } from '../base/ids.ts';
import { type NodeName, nodeName } from './block-graph.ts';

const ROLES = {
  scratch: 's',
  filter: 'c',
  access: 'a',
  target: 't',
  pattern: 'p',
} as const;

export function runNode(run: RunId, role: keyof typeof ROLES, disk: number): NodeName {
  return nodeName(`${NODE_PREFIX}${run}-${ROLES[role]}${disk}`);
}

export function runJob(run: RunId, disk: number): string {
  return `${NODE_PREFIX}${run}-j${disk}`;
}

export function runExport(run: RunId, disk: number): string {
  return `${NODE_PREFIX}${run}-e${disk}`;
}

/** The run that a node, job or export belongs to; null: not ours. */
export function runOf(name: string): RunId | null {
  return (/^qv-([0-9a-f]{8})-/.exec(name)?.[1] ?? null) as RunId | null;
}

export function isRunNode(name: string, role: keyof typeof ROLES): boolean {
  return new RegExp(`^qv-[0-9a-f]{8}-${ROLES[role]}\\d+$`).test(name);
}
