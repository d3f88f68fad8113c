/** scripts/generate-docs. That no page is stale is a unit test. */
import { writeFile } from 'node:fs/promises';
import { pages } from './pages.ts';

for (const [path, make] of Object.entries(pages)) await writeFile(path, make());
