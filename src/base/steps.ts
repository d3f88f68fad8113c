/**
 * Named steps of the engine. Every step that changes something outside the process is announced before it is
 * done. Tests stop the engine exactly there, by name and not by timing; in production nothing listens.
 *
 * This is the one list of them. What exists at each of them if the engine dies there, and who cleans it up, says
 * docs/architecture.md; its tables and the tests that kill the engine at each step are held to this list.
 */
export const STEPS = {
  /** Of a running VM. */
  backup: [
    'journal',
    'staging',
    'scratch',
    'bitmaps',
    'holes',
    'moment',
    'frozen',
    'stopped',
    'inserted',
    'jobs',
    'targets',
    'copying',
    'copied',
    'syncing',
    'synced',
    'publish',
    'published',
  ],
  /** The rest of a backup of a running VM whose engine died in it. */
  'backup of a dead engine': ['rejoin', 'copying', 'copied', 'syncing', 'synced', 'publish', 'published'],
  /** Of a stopped VM, from its images. */
  'offline backup': [
    'journal',
    'staging',
    'bitmaps',
    'jobs',
    'copying',
    'copied',
    'identity',
    'synced',
    'publish',
    'published',
  ],
  /** Delete, merge, prune: whatever changes points that exist. */
  change: [
    'delete-journal',
    'delete-pull',
    'delete-rewrite',
    'delete-gathered',
    'delete-switch',
    'delete-commit',
    'delete-describe',
    'delete-remove',
    'delete-close',
  ],
  /** A restore that copies nothing. */
  'instant restore': ['instant-hold', 'instant-publish'],
  /** A restore in the place of a stopped VM's own images. */
  'restore in place': ['place-journal', 'place-switch', 'place-link', 'place-rename', 'place-close'],
  /** What an instant restore left to be copied, for each disk. */
  fill: ['fill-stream', 'fill-finalize', 'fill-release'],
  /** Of the daemon's record of a run: it is about to be written that. */
  record: [
    'run-queued',
    'run-started',
    'run-noted',
    'run-cancel-requested',
    'run-finished',
    'run-failed',
    'run-stopped',
    'run-postponed',
    'run-lost',
  ],
} as const;

export type Step = (typeof STEPS)[keyof typeof STEPS][number];

export type ReachStep = (step: Step) => Promise<void>;

export const noSteps: ReachStep = async () => {};

/**
 * `QMPVAULT_STOP_AT=<step>[:kill|:stop]`: the process kills (default) or stops itself with a signal there, after
 * writing `step <step>` to stderr, so that a test can assert that it fired.
 */
export function stepsFromEnvironment(env: NodeJS.ProcessEnv): ReachStep {
  const wish = env['QMPVAULT_STOP_AT'];
  if (wish === undefined) return noSteps;
  const [name, how = 'kill'] = wish.split(':');
  return async (step) => {
    if (step !== name) return;
    process.stderr.write(`step ${step}\n`);
    process.kill(process.pid, how === 'stop' ? 'SIGSTOP' : 'SIGKILL');
  };
}
