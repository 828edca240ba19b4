import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, collect, mark, model, seenOnce } from './support.js';

const ask = { headers: { 'x-codex-bridge-trace': '1' } };
const turnMetadata = (body) => JSON.parse(body.client_metadata['x-codex-turn-metadata']);

function check(bridge, target) {
  const { trace } = bridge;
  assert.deepEqual(Object.keys(bridge), ['trace']);
  assert.equal(trace.request.target, target);
  assert.equal(trace.route, 'fresh');
  assert.ok(Object.values(trace.mapping).every(Boolean), JSON.stringify(trace.mapping));
  const { queued, starting, first_event, done } = trace.phases_ms;
  assert.ok(queued <= starting && starting <= first_event && first_event <= done, JSON.stringify(trace.phases_ms));
  assert.deepEqual([trace.turns, trace.retries, trace.ended], [1, 0, 'answered']);
}

test('a response and its stream', async () => {
  const word = mark();
  const request = { model, input: `SAY ${word}`, include: ['bridge.trace'] };
  const whole = await client.responses.create(request);
  check(whole.bridge, 'POST /v1/responses');
  assert.equal(whole.bridge.trace.mapping.response_id, whole.id);
  assert.equal(whole.bridge.trace.mapping.turn_id, turnMetadata(await seenOnce(word)).turn_id);

  const events = await collect(await client.responses.create({ ...request, stream: true }));
  const told = events.filter((event) => JSON.stringify(event).includes('"bridge"'));
  assert.deepEqual(told.map((event) => event.type), ['response.completed']);
  check(told[0].response.bridge, 'POST /v1/responses');
  const final = await client.responses.stream(request).finalResponse();
  assert.equal(final.output_text, word);
  check(final.bridge, 'POST /v1/responses');
});

test('a completion and its stream', async () => {
  const word = mark();
  const request = { model, messages: [{ role: 'user', content: `SAY ${word}` }] };
  check((await client.chat.completions.create(request, ask)).bridge, 'POST /v1/chat/completions');
  for (const options of [{}, { stream_options: { include_usage: true } }]) {
    const stream = await client.chat.completions.create({ ...request, ...options, stream: true }, ask);
    const chunks = await collect(stream);
    assert.deepEqual(chunks.filter((chunk) => chunk.bridge), [chunks.at(-1)]);
    check(chunks.at(-1).bridge, 'POST /v1/chat/completions');
    assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), word);
  }
  assert.equal((await client.chat.completions.create(request)).bridge, undefined);
});

test('a failure has it in its body', async () => {
  const failing = client.responses.create({ model, input: 'FAIL usage', include: ['bridge.trace'] });
  await assert.rejects(failing, (error) => {
    assert.equal(error.status, 429);
    assert.equal(error.error.bridge.trace.ended, 'failed');
    return true;
  });
});

test('a session is named by a header and inherited along the chain', async () => {
  const word = mark();
  const headers = { ...ask.headers, 'session-id': word };
  const first = await client.responses.create({ model, input: `SAY ${word}`, metadata: { a: 'b' } }, { headers });
  assert.deepEqual(first.bridge.trace.session, { id: word, source: 'header', name: 'session-id' });
  const sent = turnMetadata(await seenOnce(word));
  assert.deepEqual([sent.client_session_id, sent.a], [word, 'b']);
  const next = await client.responses.create({ model, input: 'more', previous_response_id: first.id }, ask);
  assert.equal(next.bridge.trace.route, 'live');
  assert.deepEqual(next.bridge.trace.session, { id: word, source: 'previous', name: null });
});
