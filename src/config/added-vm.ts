/** A VM that is made known while the daemon runs. It may say what one in the file may say, and is looked at as closely. */
import { QmpvaultError } from '../base/errors.ts';
import { type Config, type VmConfig, vmConfig } from './config.ts';
import { vmFlaws } from './cross-checks.ts';
import { flawsOf } from './problems.ts';
import { vmSchema } from './schema.ts';

/** @param wish what would stand under its name in the file @throws usage with details.problems */
export function addedVm({ defaults, vaults }: Config, name: string, wish: unknown): VmConfig {
  const parsed = vmSchema.safeParse(wish);
  const { vault, keep, maxChain } = defaults;
  const inherited = {
    ...(vault !== null && { vault }),
    ...(keep !== null && { keep }),
    ...(maxChain !== null && { maxChain }),
  };
  const names = vaults.map((vault) => vault.name);
  const flaws = [
    ...(parsed.error ? flawsOf(parsed.error) : []),
    ...vmFlaws([], name, (wish ?? {}) as Record<string, unknown>, inherited, names),
  ];
  if (parsed.success && flaws.length === 0) return vmConfig(defaults, name, parsed.data);
  const problems = flaws.map(({ path, what, allowed }) => {
    const where = path.map(String).join('.');
    return `${where === '' ? what : `${where}: ${what}`}${allowed === '' ? '' : `. Allowed: ${allowed}`}`;
  });
  throw new QmpvaultError('usage', `the VM ${JSON.stringify(name)} is not added: ${problems.join('; ')}`, {
    details: { vm: name, problems },
  });
}
