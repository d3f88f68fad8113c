/** What is mounted where: the kernel's own list (proc(5), mountinfo), read without touching any of it. */
import { readFile } from 'node:fs/promises';

export interface Mounted {
  readonly point: string;
  readonly fsType: string;
  readonly source: string;
}

export async function readMountTable(): Promise<string> {
  return readFile('/proc/self/mountinfo', 'utf8');
}

/** What is seen at a point: the last of those that are mounted over each other there; null: nothing. */
export function mountedAt(table: string, point: string): Mounted | null {
  const found = table.split('\n').map(mountedOf);
  return found.findLast((mounted) => mounted?.point === point) ?? null;
}

/** `36 35 98:0 /root /point opts optional... - type source superopts` */
function mountedOf(line: string): Mounted | null {
  const [place = '', filesystem = ''] = line.split(' - ');
  const point = place.split(' ')[4];
  const [fsType, source] = filesystem.split(' ');
  if (point === undefined || fsType === undefined || source === undefined) return null;
  return { point: unescaped(point), fsType, source: unescaped(source) };
}

/** Blanks, tabs, line ends and backslashes are written as `\040` and the like. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}
