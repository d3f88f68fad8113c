/** The smallest thing that boots: a sector that says a line on the first serial port, and halts. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

const SECTOR_BYTES = 512;

/**
 * xor ax,ax; mov ds,ax; mov si,0x7c16; mov dx,0x3f8; cld; next: lodsb; test al,al; jz end; out dx,al; jmp next;
 * end: hlt; jmp end
 */
const SAY = Buffer.from('31c08ed8be167cbaf803fcac84c07403eeebf8f4ebfd', 'hex');

/** @returns a file of one sector */
export function bootSector(dir: string, line: string): string {
  const sector = Buffer.alloc(SECTOR_BYTES);
  SAY.copy(sector);
  sector.write(`${line}\r\n\0`, SAY.length, 'latin1');
  sector.writeUInt16LE(0xaa55, SECTOR_BYTES - 2);
  const path = join(dir, 'sector');
  writeFileSync(path, sector);
  return path;
}
