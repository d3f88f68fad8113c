import { readFile } from 'node:fs/promises';
import { test } from 'tap';
import { pages } from '../../scripts/documentation/pages.ts';

for (const [path, make] of Object.entries(pages)) {
  test(`${path} is what scripts/generate-docs makes of this version`, async (t) => {
    t.ok((await readFile(path, 'utf8')) === make(), 'run scripts/generate-docs, and commit what it writes');
  });
}
