import t from 'tap';
import { placesFrom } from '../../../src/base/places.ts';

t.test('where things are kept', async (t) => {
  const table: [
    string,
    NodeJS.ProcessEnv,
    isRoot: boolean,
    state: string,
    runtime: string,
    scratch: string,
  ][] = [
    ['root', { HOME: '/root' }, true, '/var/lib/qmpvault', '/run/qmpvault', '/var/lib/qmpvault/scratch'],
    [
      'a user',
      { HOME: '/home/u', XDG_RUNTIME_DIR: '/run/user/7' },
      false,
      '/home/u/.local/state/qmpvault',
      '/run/user/7/qmpvault',
      '/home/u/.local/state/qmpvault/scratch',
    ],
    [
      'a user with a state folder of his own and no session',
      { HOME: '/home/u', XDG_STATE_HOME: '/s' },
      false,
      '/s/qmpvault',
      '/s/qmpvault/run',
      '/s/qmpvault/scratch',
    ],
    [
      'relative XDG folders, which are to be ignored',
      { HOME: '/home/u', XDG_STATE_HOME: 's', XDG_RUNTIME_DIR: 'r' },
      false,
      '/home/u/.local/state/qmpvault',
      '/home/u/.local/state/qmpvault/run',
      '/home/u/.local/state/qmpvault/scratch',
    ],
    [
      'overrides',
      { QMPVAULT_STATE_DIR: '/a', QMPVAULT_RUNTIME_DIR: '/b', QMPVAULT_SCRATCH_DIR: '/c' },
      true,
      '/a',
      '/b',
      '/c',
    ],
    ['another state folder alone', { QMPVAULT_STATE_DIR: '/a' }, true, '/a', '/run/qmpvault', '/a/scratch'],
    [
      'empty overrides',
      { QMPVAULT_STATE_DIR: '' },
      true,
      '/var/lib/qmpvault',
      '/run/qmpvault',
      '/var/lib/qmpvault/scratch',
    ],
  ];
  for (const [who, env, isRoot, stateDir, runtimeDir, scratchDir] of table) {
    t.same(placesFrom(env, isRoot), { stateDir, runtimeDir, scratchDir }, who);
  }
});
