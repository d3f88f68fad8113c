/** What time it is, as the system's clock has it: it may jump, in both directions. Tests pass another one. */
export type Clock = () => Date;

export const systemClock: Clock = () => new Date();
