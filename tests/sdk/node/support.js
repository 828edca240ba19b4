// What the tests share: the client, the stand-in's record of what the model saw, bounded waits.
//
// Runs against a bridge with the stand-in model behind it: `codex-bridge demo`, with or without `--chatgpt`.
// The environment says where: OPENAI_BASE_URL, OPENAI_API_KEY, STANDIN_URL, and STANDIN_CA where the stand-in
// speaks TLS. The `openai` package is looked for in SDK_NODE_DIR, else in `.cache/node`. The tests look at the
// bridge's slots, so files run one after another: `node --test --test-concurrency=1`.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { get as httpGet } from 'node:http';
import { get as httpsGet } from 'node:https';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { randomBytes } from 'node:crypto';
import { deflateSync } from 'node:zlib';

// Where the packages are.
export const folder = process.env.SDK_NODE_DIR ?? resolve(import.meta.dirname, '../../../.cache/node');
// A package of that folder.
export const load = createRequire(resolve(folder, 'package.json'));
export const OpenAI = load('openai');

const baseURL = process.env.OPENAI_BASE_URL ?? 'http://127.0.0.1:8787/v1';
const apiKey = process.env.OPENAI_API_KEY ?? 'demo';
const standin = process.env.STANDIN_URL;
if (!standin) throw new Error('STANDIN_URL is not set; scripts/test starts a bridge and sets it');
export const loggedIn = standin.startsWith('https:');

// Without retries: a test wants the first answer.
export const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 60_000 });
export const withKey = (key) => new OpenAI({ baseURL, apiKey: key, maxRetries: 0 });
export const model = (await client.models.list()).data[0].id;

// A word no other test says.
export const mark = () => `m${randomBytes(6).toString('hex')}`;

// The upstream bodies that hold `word` and that the model answered, oldest first, each with its whole
// conversation as `input`: over a WebSocket a body carries only what is new.
export async function seen(word) {
  const ca = process.env.STANDIN_CA && readFileSync(process.env.STANDIN_CA);
  const entries = await getJson(`${new URL(standin).origin}/requests`, { ca });
  const bodies = entries.map(({ body, input }) => ({ ...body, input }));
  return bodies.filter((body) => body.generate !== false && JSON.stringify(body).includes(word));
}

export async function seenOnce(word) {
  const bodies = await seen(word);
  if (bodies.length !== 1) throw new Error(`${bodies.length} upstream requests hold ${word}`);
  return bodies[0];
}

// `role: text` of each message the model saw, and the type of every other item.
export const said = (body) =>
  body.input.map((item) =>
    (item.type ?? 'message') === 'message'
      ? `${item.role}: ${item.content.map((part) => part.text ?? part.type).join('|')}`
      : item.type,
  );

// The tools the model was offered: some models get them in an item, grouped by namespace.
export function offered(body) {
  const wrapped = body.input.filter((item) => item.type === 'additional_tools').flatMap((item) => item.tools);
  return [...(body.tools ?? []), ...wrapped].flatMap((tool) => (tool.type === 'namespace' ? tool.tools : [tool]));
}

// The bodies of a tool loop of so many rounds: one thread and one turn, each body the one before it with the
// model's own items and the outputs after it; and nothing of it is left in the bridge.
export async function nativeLoop(word, rounds) {
  const bodies = await seen(word);
  assert.equal(bodies.length, rounds + 1, 'one upstream request a round, and one for the answer');
  for (const place of ['thread_id', 'turn_id'])
    assert.equal(new Set(bodies.map((body) => body.client_metadata[place])).size, 1, `one ${place}`);
  assert.equal(new Set(bodies.map((body) => body.prompt_cache_key)).size, 1);
  for (const [index, later] of bodies.slice(1).entries()) {
    const earlier = bodies[index];
    assert.deepEqual(offered(later), offered(earlier));
    const known = earlier.input.length;
    assert.deepEqual(later.input.slice(0, known), earlier.input);
    const added = later.input.slice(known).filter((item) => item.type !== 'reasoning');
    const ids = (type) => added.filter((item) => item.type === type).map((item) => item.call_id);
    const calls = ids('function_call');
    assert.ok(calls.length > 0);
    assert.deepEqual(ids('function_call_output').sort(), calls.sort());
    assert.equal(added.length, 2 * calls.length);
  }
  await untilIdle();
  return bodies;
}

// What the stand-in charges for a body: a quarter of its bytes.
export const inputTokens = (body) =>
  Math.floor((Buffer.byteLength(JSON.stringify(body.input)) + Buffer.byteLength(body.instructions ?? '')) / 4);

export const health = () => getJson(`${baseURL}/health`, { headers: { authorization: `Bearer ${apiKey}` } });

// Polls `look` until it gives something true; fails after the bound.
export async function until(what, look) {
  const end = Date.now() + 10_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`not within 10 s: ${what}`);
    await new Promise((done) => setTimeout(done, 20));
  }
}

// How many turns wait for their tools' outputs.
export const heldTurns = async () => (await health()).continuation.held_turns;

export const untilIdle = () => until('all slots free', async () => (await health()).slots.in_use === 0);

export async function collect(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

// A real PNG of one colour.
export function png(red, green, blue, size = 3) {
  const chunk = (kind, data) => {
    const body = Buffer.concat([Buffer.from(kind), data]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, sum]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(size, 0);
  header.writeUInt32BE(size, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const row = Buffer.from([0, ...Array(size).fill([red, green, blue]).flat()]);
  const rows = deflateSync(Buffer.concat(Array(size).fill(row)));
  const magic = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([magic, chunk('IHDR', header), chunk('IDAT', rows), chunk('IEND', Buffer.alloc(0))]);
}

export const dataUrl = (data, kind = 'image/png') => `data:${kind};base64,${data.toString('base64')}`;

function crc32(data) {
  let sum = ~0;
  for (const byte of data) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}

function getJson(url, options) {
  const get = url.startsWith('https:') ? httpsGet : httpGet;
  return new Promise((done, fail) => {
    const request = get(url, { ...options, timeout: 10_000 }, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('error', fail);
      response.on('end', () => {
        const text = Buffer.concat(parts).toString();
        if (response.statusCode !== 200) return fail(new Error(`${url}: ${response.statusCode} ${text}`));
        done(JSON.parse(text));
      });
    });
    request.on('timeout', () => request.destroy(new Error(`${url}: no answer`)));
    request.on('error', fail);
  });
}
