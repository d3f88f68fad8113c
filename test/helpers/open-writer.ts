/** A writer to which a test has a monitor of its own: what its files stand on is changed there, while it is at work. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { QmpClient } from '../../qmp/index.ts';
import { type TestSite, withEngine } from './engine.ts';
import { type Teardown, tempDir } from './temp-dir.ts';

/** As the writer opens a target (src/image/writer.ts): what a reopen has to repeat. */
export const TARGET_OPTIONS = {
  cache: { direct: true, 'no-flush': true },
  backing: null,
  discard: 'unmap',
  'detect-zeroes': 'unmap',
};

/** The node of the nth target. */
export const targetNode = (nth: number) => `image-${nth}`;

export interface OpenWriterSite extends TestSite {
  /** Of the writer of the run under way. */
  readonly monitor: () => Promise<QmpClient>;
}

/** The same engine, whose writers can be reached. */
export function withOpenWriter(t: Teardown, site: TestSite): OpenWriterSite {
  const dir = tempDir(t);
  const path = join(dir, 'monitor.sock');
  const storageDaemon = join(dir, 'qemu-storage-daemon');
  const { tools } = site.engine;
  const script = `#!/bin/sh
exec ${tools.storageDaemon} "$@" --chardev socket,id=test,path=${path},server=on,wait=off --monitor chardev=test
`;
  writeFileSync(storageDaemon, script, { mode: 0o755 });
  return {
    ...withEngine(site, { ...site.engine, tools: { ...tools, storageDaemon } }),
    monitor: async () => {
      const client = await QmpClient.connect({ path });
      t.teardown(() => client.close());
      return client;
    },
  };
}
