/**
 * Makes qmpvault as it is published: each program in one file, with what several of them share in files beside it, the
 * libraries inside, and their licences in LICENSES.
 *
 * Of the 0.55 s of CPU time that an increment with nothing dirty took as some 500 modules, 0.2 s went into finding and reading
 * them (decision 84).
 *
 * Usage: main.ts [DIR]     into DIR, which is new (default: dist)
 */
import { readFileSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'esbuild';

/** A process of ours finds the next one beside itself. */
const PROGRAMS = {
  qmpvault: 'src/cli/main.ts',
  nasbackup: 'src/cloudstack/main.ts',
  'worker-main': 'src/daemon/worker-main.ts',
  'reader-main': 'src/daemon/reader-main.ts',
  'guard-main': 'src/image/guard-main.ts',
};
/** What libraries say of their licences that bring no text of one. */
const WITHOUT_TEXT: Readonly<Record<string, string>> = {
  // Its README, and the field `license`.
  ndjson:
    'Copyright Max Ogden (https://github.com/ndjson/ndjson.js). BSD-3-Clause: https://opensource.org/license/bsd-3-clause\n',
};
const root = join(import.meta.dirname, '../..');
const dir = process.argv[2] ?? join(root, 'dist');

const { metafile } = await build({
  absWorkingDir: root,
  entryPoints: PROGRAMS,
  outdir: dir,
  bundle: true,
  splitting: true,
  format: 'esm',
  platform: 'node',
  target: 'node24',
  // Half of the libraries are CommonJS.
  banner: {
    js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
  },
  metafile: true,
  logLevel: 'warning',
});
const libraries = new Set(
  Object.keys(metafile.inputs).flatMap(
    (file) => /^.*node_modules\/(?:@[^/]+\/)?[^/]+(?=\/)/.exec(file)?.[0] ?? [],
  ),
);
const licences = await Promise.all([...libraries].sort().map((library) => licenceOf(join(root, library))));
await writeFile(join(dir, 'LICENSES'), licences.join(`\n${'-'.repeat(80)}\n\n`));

/** With its text. @throws where there is none, so that nobody passes it on unseen */
async function licenceOf(folder: string): Promise<string> {
  const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
  const text = file === undefined ? WITHOUT_TEXT[name] : await readFile(join(folder, file), 'utf8');
  if (license === undefined || text === undefined) throw new Error(`${name} comes without its licence`);
  return `${name} ${version}: ${license}\n\n${text}`;
}
