/** From the file to the configuration, or to all that is wrong with it at once. */
import { readFile, stat } from 'node:fs/promises';
import { errnoOf, messageOf } from '../base/errors.ts';
import { type Config, resolveConfig } from './config.ts';
import { crossChecks } from './cross-checks.ts';
import { configInvalid, flawsOf, type Problem } from './problems.ts';
import { fileSchema } from './schema.ts';
import { parseSource, type Source } from './source.ts';

const MAX_BYTES = 4 * 1024 ** 2;

export interface ReadConfig {
  readonly config: Config;
  readonly source: Source;
}

/** @throws config-invalid with details.problems */
export async function readConfig(file: string): Promise<ReadConfig> {
  return parseConfig(file, await textOf(file));
}

/** @throws config-invalid with details.problems */
export function parseConfig(file: string, text: string): ReadConfig {
  const source = parseSource(file, text);
  const parsed = fileSchema.safeParse(source.value);
  const isReadable = source.value !== null || source.problems.length === 0;
  const flaws = isReadable
    ? [...(parsed.error ? flawsOf(parsed.error) : []), ...crossChecks(source.value)]
    : [];
  const problems = [...source.problems, ...flaws.map(source.problemAt)].sort(
    (a, b) => a.line - b.line || a.column - b.column,
  );
  if (parsed.success && problems.length === 0) return { config: resolveConfig(file, parsed.data), source };
  throw configInvalid(file, problems);
}

async function textOf(file: string): Promise<string> {
  const unreadable = (what: string, allowed: string) => {
    const problem: Problem = { file, line: 1, column: 1, what, allowed };
    return configInvalid(file, [problem]);
  };
  try {
    const { size } = await stat(file);
    if (size > MAX_BYTES) throw unreadable(`it has ${size} bytes`, `at most ${MAX_BYTES}`);
    return await readFile(file, 'utf8');
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === undefined) throw error;
    throw unreadable(`it cannot be read: ${messageOf(error)}`, 'a file; name another with --config');
  }
}
