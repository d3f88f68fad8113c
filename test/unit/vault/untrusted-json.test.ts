/** The journal of a change and the record of a VM lie on the NAS, where anybody may have written: a typed error at the most. */
import fc from 'fast-check';
import t from 'tap';
import { codeOf } from '../../../src/base/errors.ts';
import type { DiskName, VmName } from '../../../src/base/ids.ts';
import { parseChange } from '../../../src/vault/change.ts';
import { parseVmRecord, type VmRecord } from '../../../src/vault/vm-record.ts';
import { damagedJson } from '../../helpers/damaged-json.ts';
import { changeOf, point } from '../../helpers/vault-files.ts';

const vda = 'vda' as DiskName;
const change = changeOf({
  moves: [
    {
      point: point('p3'),
      disk: vda,
      file: 'vda.qcow2',
      from: { point: point('p2'), file: 'vda.qcow2' },
      backing: { point: point('p1'), file: 'vda.qcow2' },
      how: 'commit',
    },
  ],
  parents: [{ point: point('p3'), parent: point('p1') }],
  removes: [point('p2')],
});
const record: VmRecord = {
  format: 1,
  name: 'web1' as VmName,
  uuid: '',
  disks: [{ name: vda, image: '/images/vda', format: 'raw', device: '', virtualSizeBytes: 512 }],
  updatedAt: '2026-11-20T08:41:12.123Z',
};

for (const [what, good, parse] of [
  ['the journal of a change', change, parseChange],
  ['the record of a VM', record, parseVmRecord],
] as const) {
  t.test(`whatever ${what} holds, it is read or refused`, async (t) => {
    t.same(parse(JSON.stringify(good), 'here'), good);
    fc.assert(
      fc.property(damagedJson({ ...good }), (text) => {
        try {
          return typeof parse(text, 'here') === 'object';
        } catch (error) {
          return ['manifest-invalid', 'vault-format'].includes(codeOf(error));
        }
      }),
      { numRuns: 400 },
    );
  });
}
