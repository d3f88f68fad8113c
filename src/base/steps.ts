/**
 * Named steps of the engine. Every step that changes something outside the process is announced before it is
 * done. Tests stop the engine exactly there, by name and not by timing; in production nothing listens.
 */
export type ReachStep = (step: string) => Promise<void>;

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
