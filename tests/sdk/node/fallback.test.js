// A bridge that nobody is logged in to, with the bridge under test as its fallback.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';

import { OpenAI, client, mark, model, seenOnce } from './support.js';

let place;
let bridge;
let second;

before(async () => {
  place = mkdtempSync(join(tmpdir(), 'codex-bridge-'));
  mkdirSync(join(place, 'codex'));
  const config = join(place, 'config.toml');
  writeFileSync(
    config,
    `
server.port = 0
state.dir = "${place}/state"
app_server.user_codex_home = "${place}/codex"
fallback.base_url = "${client.baseURL}"
fallback.api_key = "${client.apiKey}"
`,
  );
  const stdio = ['ignore', 'pipe', 'ignore'];
  bridge = spawn(process.env.BRIDGE_BIN, ['serve', '--config', config], { stdio });
  for await (const line of createInterface({ input: bridge.stdout })) {
    const [, address] = line.match(/^listening on (http\S+)/) ?? [];
    if (address) {
      second = new OpenAI({ baseURL: `${address}/v1`, apiKey: 'anything', maxRetries: 0, timeout: 60_000 });
      break;
    }
  }
  assert.ok(second, 'the second bridge listens');
});

after(async () => {
  bridge.kill('SIGTERM');
  const [code] = bridge.exitCode === null ? await once(bridge, 'exit') : [bridge.exitCode];
  rmSync(place, { recursive: true });
  assert.equal(code, 0);
});

test('a response comes from the other bridge, and says so', async () => {
  const word = mark();
  const request = second.responses.create({ model, input: `SAY ${word} one` });
  const { data, response } = await request.withResponse();
  assert.equal(response.headers.get('x-codex-bridge-fallback'), 'logged_out');
  assert.equal(data.output_text, `${word} one`);
  await seenOnce(word);
});

test('a completion is streamed through', async () => {
  const word = mark();
  const messages = [{ role: 'user', content: `SAY ${word} a b c` }];
  let text = '';
  for await (const chunk of await second.chat.completions.create({ model, messages, stream: true })) {
    text += chunk.choices[0]?.delta.content ?? '';
  }
  assert.equal(text, `${word} a b c`);
});

test('what was begun elsewhere is not taken', async () => {
  const first = await second.responses.create({ model, input: `SAY ${mark()}` });
  const next = second.responses.create({ model, input: 'and?', previous_response_id: first.id });
  await assert.rejects(next, (error) => {
    assert.equal(error.status, 401);
    assert.equal(error.code, 'login_required');
    assert.equal(error.headers.get('x-codex-bridge-fallback'), null);
    return true;
  });
});
