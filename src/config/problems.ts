/** What is wrong in a configuration: where it stands, in words, and what is allowed there. */
import type { z } from 'zod';
import { QmpvaultError } from '../base/errors.ts';

export interface Problem {
  readonly file: string;
  /** From 1 on. */
  readonly line: number;
  readonly column: number;
  readonly what: string;
  readonly allowed: string;
}

/** A problem before its place in the text is known. */
export interface Flaw {
  readonly path: readonly PropertyKey[];
  /** It is the key that is wrong, not its value. */
  readonly atKey?: boolean;
  readonly what: string;
  readonly allowed: string;
}

/** The schemas put what is wrong into the first line of a message, and what is allowed into the second. */
export function flawsOf(error: z.ZodError): Flaw[] {
  return error.issues.flatMap((issue): Flaw[] => {
    const [what = '', allowed = ''] = issue.message.split('\n');
    if (issue.code !== 'unrecognized_keys') return [{ path: issue.path, what, allowed }];
    return issue.keys.map((key) => ({ path: [...issue.path, key], atKey: true, what, allowed }));
  });
}

export function lineOf({ file, line, column, what, allowed }: Problem): string {
  return `${file}:${line}:${column}: ${what}${allowed === '' ? '' : `. Allowed: ${allowed}`}`;
}

/** @param problems at least one */
export function configInvalid(file: string, problems: readonly Problem[]): QmpvaultError {
  const [first] = problems;
  const all = problems.length > 1 ? `${file} has ${problems.length} problems, the first: ` : '';
  return new QmpvaultError('config-invalid', `${all}${first === undefined ? file : lineOf(first)}`, {
    details: { file, problems },
  });
}
