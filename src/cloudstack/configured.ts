/** What the configuration of this host says, where there is one. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, messageOf } from '../base/errors.ts';
import type { Config } from '../config/config.ts';
import { readConfig } from '../config/read-config.ts';
import type { Params } from '../operations/index.ts';
import type { Site } from './site.ts';

/** How an instance is spoken to, as far as it is written down. @throws config-invalid */
export async function socketsOf(
  instance: string,
  site: Site,
): Promise<Pick<Params<'backup'>, 'qmp' | 'agent' | 'discover'>> {
  const config = await configOf(site);
  const vm = config?.vms.find(({ name }) => name === instance);
  return {
    ...(vm?.qmp && { qmp: vm.qmp }),
    ...(vm?.qmp && vm.agent && { agent: vm.agent }),
    ...(config && { discover: [...config.discover] }),
  };
}

/** Where the daemon listens, if it runs. */
export async function daemonSocket(site: Site): Promise<string> {
  const config = await configOf(site).catch((error: unknown) => {
    site.engine.log.warn({ code: codeOf(error) }, messageOf(error));
    return null;
  });
  return config?.rpc.socket ?? join(site.engine.runtimeDir, 'rpc.sock');
}

async function configOf({ configFile }: Site): Promise<Config | null> {
  if ((await stat(configFile).catch(() => null)) === null) return null;
  return (await readConfig(configFile)).config;
}
