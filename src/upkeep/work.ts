/** How far upkeep has come, for whoever watches: one thing at a time, in bytes. */
export interface Work {
  readonly phase: 'merging' | 'digesting' | 'checking';
  readonly name: string;
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** Several parts of one work, done one after the other. */
export class WorkMeter {
  readonly #tell: (doneBytes: number) => void;
  #doneBytes = 0;

  constructor(
    onWork: ((work: Work) => void) | undefined,
    { phase, name, totalBytes }: Omit<Work, 'doneBytes'>,
  ) {
    this.#tell = (doneBytes) =>
      onWork?.({ phase, name, totalBytes, doneBytes: Math.min(doneBytes, totalBytes) });
  }

  /** @param part from 0 to 1 of the part that is under way */
  at(part: number, partBytes: number): void {
    this.#tell(this.#doneBytes + Math.round(part * partBytes));
  }

  finish(partBytes: number): void {
    this.#doneBytes += partBytes;
    this.#tell(this.#doneBytes);
  }
}
