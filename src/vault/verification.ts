/**
 * verified.json, beside a point's manifest: when it was last looked at, how closely, and what was found; and when a guest
 * was last booted from it, which is another question. Beside it lies what that guest said and showed.
 */
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
  boot?: BootRecord | undefined;
}

export interface BootRecord {
  at: string;
  /** Who answered; null: nobody did. */
  answer: 'agent' | 'line' | null;
  what: string;
  tookMs: number;
  accelerator: string;
}

/** What is kept of a boot. */
export interface BootEvidence {
  readonly serialLog: string;
  /** PNG. */
  readonly screen: Buffer | null;
}

const schema: z.ZodType<Verification> = z.looseObject({
  format: z.literal(FORMAT),
  at: z.iso.datetime(),
  level: z.enum(LEVELS),
  damage: z.array(z.looseObject({ disk: z.string().nullable(), what: z.string() })),
  boot: z
    .looseObject({
      at: z.iso.datetime(),
      answer: z.enum(['agent', 'line']).nullable(),
      what: z.string(),
      tookMs: z.number().nonnegative(),
      accelerator: z.string(),
    })
    .optional(),
});

/** @throws manifest-invalid, vault-format */
export function parseVerification(text: string, where: string): Verification {
  return parseVaultJson(schema, text, where);
}
