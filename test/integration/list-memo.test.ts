import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { type OperationName, type Params, perform } from '../../src/operations/index.ts';
import { cli } from '../helpers/cli.ts';
import { testSite } from '../helpers/engine.ts';
import { HandMadeVault } from '../helpers/hand-made-vault.ts';

t.test('whatever becomes of points, a list says the same with and without what it remembers', async (t) => {
  const made = await HandMadeVault.withChain(t);
  const { engine } = await testSite(t);
  const vault = made.vault.path;
  const file = join(engine.stateDir, 'lists', made.vault.id);
  // All points were made just now; what is so young is not remembered.
  const clock = () => new Date(Date.now() + 2 * 3_600_000);
  const list = (cache: boolean) => perform('list', { vault, cache }, { engine, clock });
  const same = async (after: string) => {
    const truth = await list(false);
    t.same(await list(true), truth, `after ${after}`);
    t.same(await list(true), truth, `and when all of it is remembered, after ${after}`);
    const remembered = JSON.parse(readFileSync(file, 'utf8').replace(/^.*\n/, ''));
    t.equal(remembered.length, truth.points.length);
    return truth;
  };
  const does = <N extends OperationName>(name: N, wish: Omit<Params<N>, 'vault'>) =>
    perform(name, { vault, ...wish } as unknown as Params<N>, { engine });
  const manifest = (id: string) => join(vault, 'web1', id, 'manifest.json');
  const edit = (id: string, from: string, to: string) => {
    const text = readFileSync(manifest(id), 'utf8');
    writeFileSync(manifest(id), text.replace(from, to));
    t.not(readFileSync(manifest(id), 'utf8'), text);
  };

  await list(false);
  t.notOk(existsSync(file), 'what is not asked for is not written either');
  await same('nothing');
  await does('protect', { vm: 'web1', point: 'p1' });
  t.match(await same('protect'), { points: [{ id: 'p1', protected: true }, {}, {}] });
  await does('verify', { level: 'deep' });
  t.match(await same('verify'), { points: [{ disks: [{ sha256: /^\w{64}$/ }, {}] }, {}, {}] });
  await does('seal', { vm: 'web1' });
  t.match(await same('seal'), { points: [{}, {}, { id: 'p3', sealed: true }] });
  await does('delete', { vm: 'web1', point: 'p2' });
  t.match(await same('a delete in the middle'), { points: [{ id: 'p1' }, { id: 'p3', parent: 'p1' }] });
  await made.add('p4', { writes: { vda: [[5, 0, 4096]] } });
  t.equal((await same('a new point')).points.length, 3);
  edit('p4', 'a test asked for it', 'somebody at home');
  t.match(await same('an edit by hand'), { points: [{}, {}, { why: 'somebody at home' }] });
  edit('p4', '{', '?');
  t.match(await same('damage'), { points: [{}, {}], warnings: [/p4 cannot be read/] });
  edit('p4', '?', '{');
  t.equal((await same('repair')).points.length, 3);
  rmSync(manifest('p1'));
  t.match(await same('a manifest was lost'), { points: [{}, {}], warnings: [/p1 cannot be read/] });

  for (const args of [[], ['--no-cache'], ['web1', '--no-cache']]) {
    const { stdout } = await cli({ engine }, ['list', '--vault', vault, ...args]);
    t.same(JSON.parse(stdout), await list(false), `qmpvault list ${args}`);
  }
});
