// The README's snippets, as they stand there but for the address.

import assert from 'node:assert/strict';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { client, folder } from '../support.js';

const readme = readFileSync(resolve(import.meta.dirname, '../../../../README.md'), 'utf8');
const snippets = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map(([, snippet]) => snippet);

test('there are some', () => assert.ok(snippets.length >= 3));

for (const [index, snippet] of snippets.entries()) {
  test(`a snippet runs: ${snippet.split('\n')[0]}`, async (context) => {
    assert.ok(snippet.includes('http://127.0.0.1:8787/v1'));
    // A module finds its packages from where it lies.
    const file = resolve(folder, `readme-${index}.mjs`);
    const said = context.mock.method(console, 'log', () => {});
    try {
      writeFileSync(file, snippet.replaceAll('http://127.0.0.1:8787/v1', client.baseURL));
      await import(pathToFileURL(file));
    } finally {
      rmSync(file, { force: true });
    }
    assert.deepEqual(said.mock.calls.map((call) => call.arguments), [['echo: Say hello']]);
  });
}
