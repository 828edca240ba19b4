// Background responses: polled, streamed again from any event, cancelled.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, mark, model } from './support.js';

test('a response is polled until it has ended', async () => {
  const word = mark();
  let response = await client.responses.create({ model, input: `SAY ${word}`, background: true });
  assert.equal(response.status, 'queued');
  while (['queued', 'in_progress'].includes(response.status)) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    response = await client.responses.retrieve(response.id);
  }
  assert.deepEqual([response.status, response.output_text], ['completed', word]);
});

test('a lost stream goes on where it was', async () => {
  const first = await client.responses.create({ model, input: `${mark()} SLOW 60 20`, background: true, stream: true });
  const seen = [];
  for await (const event of first) {
    seen.push(event);
    if (event.type === 'response.output_text.delta') break;
  }
  const rest = [];
  const after = seen.at(-1).sequence_number;
  const again = await client.responses.retrieve(seen[0].response.id, { stream: true, starting_after: after });
  for await (const event of again) rest.push(event);
  const numbers = [...seen, ...rest].map((event) => event.sequence_number);
  assert.deepEqual(numbers, numbers.map((_, index) => index));
  assert.equal(rest.at(-1).type, 'response.completed');
});

test('a response is cancelled', async () => {
  const response = await client.responses.create({ model, input: `${mark()} SLOW 400 50`, background: true });
  const cancelled = await client.responses.cancel(response.id);
  assert.equal(cancelled.status, 'cancelled');
});

test('input tokens are counted', async () => {
  const counted = await client.responses.inputTokens.count({ model, input: mark() });
  assert.ok(counted.input_tokens > 0);
});
