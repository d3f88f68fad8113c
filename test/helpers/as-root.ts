import { execFileSync } from 'node:child_process';

/** Mounts and devices need root, or sudo without a password. @returns what the command printed */
export function asRoot(...command: string[]): string {
  const [program = '', ...args] = process.getuid?.() === 0 ? command : ['sudo', '-n', ...command];
  return execFileSync(program, args, { encoding: 'utf8' });
}
