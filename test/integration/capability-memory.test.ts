import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import t from 'tap';
import { MiB } from '../../src/base/units.ts';
import { qemuBin } from '../../vm-fixtures/guestless.ts';
import { expectClean, testSite } from '../helpers/engine.ts';
import { qemuVersions } from '../helpers/qemu-versions.ts';
import { qmpProxy } from '../helpers/qmp-proxy.ts';
import { testVm } from '../helpers/vm.ts';

// The program behind the socket is the proxy in this process, and only what a QEMU can do is remembered.
process.title = 'qemu-proxy';

for (const qemu of qemuVersions()) {
  t.test(
    `QEMU ${qemu}: its schema is asked for once, and again when what was remembered is no good`,
    async (t) => {
      const vm = await testVm(t, { qemu, disks: [{ name: 'vda', sizeBytes: 8 * MiB }] });
      const site = await testSite(t, { bin: qemuBin(qemu) });
      let schemas = 0;
      const { path } = await qmpProxy(t, vm.qmpSocket, {
        onCommand: (command) => {
          if (command === 'query-qmp-schema') schemas += 1;
          return undefined;
        },
      });
      const backUp = async () => {
        const { point } = await site.backUp(vm, { qmp: path });
        return point.kind;
      };
      t.equal(await backUp(), 'full');
      t.equal(schemas, 1);
      t.equal(await backUp(), 'incremental');
      t.equal(schemas, 1, 'remembered');

      const folder = join(site.engine.stateDir, 'qemu');
      const [name = ''] = await readdir(folder);
      const file = join(folder, name);
      const known = JSON.parse(await readFile(file, 'utf8'));
      const { yank, ...others } = known.capabilities;
      t.type(yank, 'boolean');
      for (const [nth, text] of [
        '',
        'null',
        JSON.stringify({ ...known, binary: `another ${known.binary}` }),
        JSON.stringify({ ...known, capabilities: others }),
      ].entries()) {
        await writeFile(file, text);
        t.equal(await backUp(), 'incremental');
        t.equal(schemas, 2 + nth, `asked again instead of '${text.slice(0, 30)}'`);
        t.strictSame(JSON.parse(await readFile(file, 'utf8')), known, 'and remembered');
      }
      await expectClean(t, site, vm, { bitmaps: 1 });
    },
  );
}
