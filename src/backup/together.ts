/** Several things at once that stand and fall together. */

export type Task = (signal: AbortSignal) => Promise<unknown>;

/**
 * Runs all tasks; the first failure aborts the others, and is thrown when all have ended. Watchers go on only as
 * long as a task does.
 */
export async function together(
  signal: AbortSignal | undefined,
  { tasks, watchers }: { tasks: readonly Task[]; watchers: readonly Task[] },
): Promise<void> {
  const failed = new AbortController();
  const done = new AbortController();
  const failures: unknown[] = [];
  const run = (task: Task, ...signals: AbortSignal[]) =>
    task(AbortSignal.any([...signals, failed.signal, ...(signal ? [signal] : [])])).catch(
      (error: unknown) => {
        if (done.signal.aborted) return;
        failures.push(error);
        failed.abort(error);
      },
    );
  const watching = watchers.map((watcher) => run(watcher, done.signal));
  await Promise.all(tasks.map((task) => run(task)));
  done.abort();
  await Promise.all(watching);
  if (failures.length > 0) throw failures[0];
}

/** All of them end, then the first failure is thrown: none is left running behind the clean-up's back. */
export async function all<T extends readonly unknown[] | []>(
  parts: T,
): Promise<{ -readonly [P in keyof T]: Awaited<T[P]> }> {
  for (const result of await Promise.allSettled(parts)) {
    if (result.status === 'rejected') throw result.reason;
  }
  return Promise.all(parts);
}
