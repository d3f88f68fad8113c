/**
 * Loaded by .taprc before each test file: the processes that a test starts run as they do elsewhere. tap has every Node
 * below it load hooks for coverage, which nobody here asks for, and wraps spawn() to see to it: 50 ms of CPU for each
 * engine, worker and guard (m: `node -e 0` 20 instead of 70), and the launcher, a module without an extension, they refuse.
 */
delete process.env['NODE_OPTIONS'];
const wrapped = Symbol.for('process-on-spawn@*:singletonId');
(globalThis as { [wrapped]?: { unwrap: () => void } })[wrapped]?.unwrap();
