/** How deep a document may be nested. What a method takes has a handful of levels. */
const DEPTH_MAX = 64;

/**
 * Parses JSON from a stranger. A megabyte of opening brackets costs JSON.parse a hundred times what other text does
 * (m: 300 ms and 120 MiB on a busy machine, and nobody else is served meanwhile), so the depth is looked at before.
 * @throws SyntaxError
 */
export function parseJson(text: string): unknown {
  if (isTooDeep(text)) throw new SyntaxError(`nested deeper than ${DEPTH_MAX} levels`);
  return JSON.parse(text);
}

function isTooDeep(text: string): boolean {
  let depth = 0;
  let isInString = false;
  for (let i = 0; i < text.length; i += 1) {
    const char = text[i];
    if (isInString) {
      if (char === '\\') i += 1;
      else if (char === '"') isInString = false;
    } else if (char === '"') {
      isInString = true;
    } else if (char === '[' || char === '{') {
      depth += 1;
      if (depth > DEPTH_MAX) return true;
    } else if (char === ']' || char === '}') {
      depth -= 1;
    }
  }
  return false;
}
