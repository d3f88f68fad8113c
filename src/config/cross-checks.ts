/**
 * What no single value shows: names that nobody has, things that stand twice, wishes that need another. It looks at the
 * text's raw values, so that it finds its flaws also when the schema has found others.
 */
import { messageOf } from '../base/errors.ts';
import { diskName, vmName } from '../base/ids.ts';
import type { Flaw } from './problems.ts';

type Fields = Readonly<Record<string, unknown>>;
type Path = readonly (string | number)[];

export function crossChecks(value: unknown): Flaw[] {
  if (!isSection(value)) return [];
  const file = fieldsOf(value);
  const vaults = Object.keys(fieldsOf(file['vaults']));
  const defaults = fieldsOf(file['defaults']);
  const vms = Object.entries(fieldsOf(file['vms'])).flatMap(([name, vm]) =>
    isSection(vm) ? [{ name, vm: fieldsOf(vm) }] : [],
  );
  const needsDefaultVault = Array.isArray(file['discover']) && file['discover'].length > 0;
  return [
    ...noVaults(file, vaults),
    ...vaults.flatMap((name) => nameFlaws(['vaults', name], () => vmName(name))),
    ...settingsFlaws(['defaults'], defaults, vaults),
    ...(needsDefaultVault ? noVaultFlaws(['discover'], defaults, vaults) : []),
    ...vms.flatMap(({ name, vm }) => vmFlaws(['vms', name], name, vm, defaults, vaults)),
    ...twice(vms.map(({ name, vm }) => ({ path: ['vms', name, 'qmp'], value: vm['qmp'] }))),
    ...twice(
      Object.entries(fieldsOf(file['vaults'])).map(([name, vault]) => ({
        path: ['vaults', name, 'path'],
        value: fieldsOf(vault)['path'],
      })),
    ),
  ];
}

function noVaults(file: Fields, vaults: readonly string[]): Flaw[] {
  // Anything but a section is the schema's business.
  if (vaults.length > 0 || !isSection(file['vaults'])) return [];
  return [{ path: ['vaults'], what: 'there is no vault', allowed: 'at least one: NAME: { path: /… }' }];
}

/** @param inherited the defaults */
export function vmFlaws(
  path: Path,
  name: string,
  vm: Fields,
  defaults: Fields,
  vaults: readonly string[],
): Flaw[] {
  const exclude: unknown[] = Array.isArray(vm['exclude']) ? vm['exclude'] : [];
  const isNowhere = vm['qmp'] === undefined && vm['disks'] === undefined;
  return [
    ...nameFlaws(path, () => vmName(name)),
    ...Object.keys(fieldsOf(vm['disks'])).flatMap((disk) =>
      nameFlaws([...path, 'disks', disk], () => diskName(disk)),
    ),
    ...exclude.flatMap((disk, i) =>
      typeof disk === 'string' ? nameFlaws([...path, 'exclude', i], () => diskName(disk)) : [],
    ),
    ...(isNowhere
      ? [
          {
            path: [...path, 'qmp'],
            what: 'the VM has no socket',
            allowed: 'qmp: its QMP socket; or, for a VM that never runs, disks: { NAME: IMAGE }',
          },
        ]
      : []),
    ...(vm['vault'] === undefined ? noVaultFlaws(path, defaults, vaults) : []),
    ...settingsFlaws(path, vm, vaults, defaults),
  ];
}

/** @param inherited what stands in for what is missing */
function settingsFlaws(path: Path, given: Fields, vaults: readonly string[], inherited: Fields = {}): Flaw[] {
  const { keep, maxChain, prune } = { ...inherited, ...given };
  const isAimless = given['prune'] !== undefined && keep === undefined && maxChain === undefined;
  return [
    ...(given['vault'] === undefined ? [] : vaultFlaws([...path, 'vault'], given['vault'], vaults)),
    ...(prune !== undefined && isAimless
      ? [
          {
            path: [...path, 'prune'],
            what: 'a prune needs to know what to keep',
            allowed: 'together with keep or maxChain',
          },
        ]
      : []),
    ...(typeof given['keep'] === 'object' && Object.keys(fieldsOf(given['keep'])).length === 0
      ? [
          {
            path: [...path, 'keep'],
            what: 'this keeps nothing',
            allowed: 'at least one rule, such as last: 7',
          },
        ]
      : []),
  ];
}

function vaultFlaws(path: Path, name: unknown, vaults: readonly string[]): Flaw[] {
  if (typeof name !== 'string' || vaults.includes(name) || vaults.length === 0) return [];
  return [{ path, what: `no vault is called ${JSON.stringify(name)}`, allowed: vaultsOf(vaults) }];
}

/** With one vault there is nothing to choose. */
function noVaultFlaws(path: Path, defaults: Fields, vaults: readonly string[]): Flaw[] {
  if (defaults['vault'] !== undefined || vaults.length < 2) return [];
  return [{ path, what: 'no vault is named here, nor in defaults', allowed: `vault: ${vaultsOf(vaults)}` }];
}

function vaultsOf(vaults: readonly string[]): string {
  return `one of ${vaults.join(', ')}`;
}

function twice(places: readonly { path: Path; value: unknown }[]): Flaw[] {
  const seen = new Map<unknown, Path>();
  return places.flatMap(({ path, value }): Flaw[] => {
    if (typeof value !== 'string') return [];
    const first = seen.get(value);
    if (first === undefined) seen.set(value, path);
    return first === undefined
      ? []
      : [{ path, what: `${value} stands at ${first.join('.')} already`, allowed: 'one of its own' }];
  });
}

function nameFlaws(path: Path, check: () => unknown): Flaw[] {
  try {
    check();
    return [];
  } catch (error) {
    const allowed = 'a name that can be a folder on any NAS, of at most 200 bytes';
    return [{ path, atKey: typeof path.at(-1) === 'string', what: messageOf(error), allowed }];
  }
}

/** One without keys is empty in YAML. */
function isSection(value: unknown): boolean {
  return (typeof value === 'object' && !Array.isArray(value)) || value === undefined;
}

function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}
