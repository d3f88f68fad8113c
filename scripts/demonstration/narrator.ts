/** How the demonstration is told: numbered steps, the commands as typed, what they said, and what that proves. */
import { styleText } from 'node:util';

/** What was to be shown does not hold. */
export class NotProved extends Error {}

export class Narrator {
  readonly #beganMs = performance.now();
  #steps = 0;
  #proofs = 0;

  title(text: string, ...about: readonly string[]): void {
    this.#print(styleText('bold', text), ...about);
  }

  step(title: string): void {
    this.#steps += 1;
    this.#print('', styleText(['bold', 'cyan'], `${this.#steps}. ${title}`));
  }

  say(text: string): void {
    this.#print(`   ${text}`);
  }

  command(prompt: string, line: string): void {
    this.#print(`   ${styleText('dim', prompt)} ${styleText('bold', line)}`);
  }

  output(text: string): void {
    for (const line of text.trimEnd().split('\n')) this.#print(`   ${styleText('dim', '│')} ${line}`);
  }

  /** @throws NotProved */
  proves(text: string, holds: boolean, found: unknown = ''): void {
    if (!holds) throw new NotProved(`not proved: ${text} ${JSON.stringify(found)}`);
    this.#proofs += 1;
    this.#print(`   ${styleText('green', '✔')} ${text}`);
  }

  end(text: string): void {
    const seconds = Math.round((performance.now() - this.#beganMs) / 1000);
    this.#print('', `${styleText(['bold', 'green'], `${this.#proofs} proofs in ${seconds} s.`)} ${text}`);
  }

  failed(error: unknown): void {
    const text = error instanceof NotProved ? error.message : error instanceof Error ? error.stack : error;
    process.stderr.write(`\n   ${styleText('red', '✘', { stream: process.stderr })} ${text}\n`);
  }

  #print(...lines: readonly string[]): void {
    process.stdout.write(`${lines.join('\n')}\n`);
  }
}
