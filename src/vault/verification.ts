/** verified.json, beside a point's manifest: when it was last looked at, how closely, and what was found. */
import { z } from 'zod';
import { FORMAT, parseVaultJson } from './manifest.ts';

/** Each includes the one before. */
export const LEVELS = ['quick', 'deep'] as const;
export type Level = (typeof LEVELS)[number];

export interface Verification {
  format: typeof FORMAT;
  at: string;
  level: Level;
  /** What is wrong with this point, also by what it stands on. */
  damage: { disk: string | null; what: string }[];
}

const schema: z.ZodType<Verification> = z.looseObject({
  format: z.literal(FORMAT),
  at: z.iso.datetime(),
  level: z.enum(LEVELS),
  damage: z.array(z.looseObject({ disk: z.string().nullable(), what: z.string() })),
});

/** @throws manifest-invalid, vault-format */
export function parseVerification(text: string, where: string): Verification {
  return parseVaultJson(schema, text, where);
}
