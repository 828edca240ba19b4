import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, collect, dataUrl, inputTokens, mark, model, png, said, seen, seenOnce } from './support.js';

const deltas = (events) =>
  events.filter((event) => event.type === 'response.output_text.delta').map((event) => event.delta);

test('models: list and retrieve agree', async () => {
  for (const one of (await client.models.list()).data) {
    assert.deepEqual(Object.keys(one).sort(), ['created', 'id', 'object', 'owned_by']);
    assert.equal((await client.models.retrieve(one.id)).id, one.id);
  }
});

test('a whole answer, its usage and its metadata', async () => {
  const word = mark();
  const response = await client.responses.create({ model, input: `SAY ${word} two three`, metadata: { a: 'b' } });
  assert.equal(response.output_text, `${word} two three`);
  assert.equal(response.status, 'completed');
  assert.equal(response.model, model);
  assert.deepEqual(response.metadata, { a: 'b' });
  const body = await seenOnce(word);
  assert.deepEqual(said(body), [`user: SAY ${word} two three`]);
  const tokens = inputTokens(body);
  assert.deepEqual(response.usage, {
    ...response.usage,
    input_tokens: tokens,
    output_tokens: 3,
    total_tokens: tokens + 3,
  });
  assert.equal(response.usage.input_tokens_details.cached_tokens, Math.floor(tokens / 2));
  assert.equal(response.usage.output_tokens_details.reasoning_tokens, 0);
});

test('a stream: events in order, joined deltas are the final text', async () => {
  const text = `${mark()} Grüße, 世界 👋\n\nsecond line`;
  const events = await collect(await client.responses.create({ model, input: `SAY ${text}`, stream: true }));
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, n) => n));
  assert.deepEqual(events.slice(0, 2).map((event) => event.type), ['response.created', 'response.in_progress']);
  const final = events.at(-1);
  assert.equal(final.type, 'response.completed');
  assert.equal(deltas(events).join(''), text);
  assert.equal(final.response.output[0].content[0].text, text);
  assert.equal(final.response.id, events[0].response.id);
  assert.ok(final.response.usage.total_tokens > 0);
});

test('the stream helper builds the same response', async () => {
  const word = mark();
  const stream = client.responses.stream({ model, input: `SAY ${word} one two` });
  let text = '';
  stream.on('response.output_text.delta', (event) => (text += event.delta));
  const final = await stream.finalResponse();
  assert.equal(text, `${word} one two`);
  assert.equal(final.output_text, text);
});

test('history by items, verbatim output items and by previous_response_id', async () => {
  const word = mark();
  const first = await client.responses.create({
    model,
    input: `my name is ${word}`,
    include: ['reasoning.encrypted_content'],
  });
  const input = [
    { role: 'user', content: `my name is ${word}` },
    ...first.output,
    { role: 'user', content: 'RECALL' },
  ];
  const byItems = await client.responses.create({ model, input });
  assert.equal(byItems.output_text, `you said: my name is ${word}`);
  const byId = await client.responses.create({ model, input: 'RECALL', previous_response_id: first.id });
  assert.equal(byId.output_text, `you said: my name is ${word}`);
  assert.equal(byId.previous_response_id, first.id);
  const [, one, two] = await seen(word);
  assert.deepEqual(said(one), said(two));

  // An older response than the last one.
  const left = await client.responses.create({ model, input: 'left', previous_response_id: first.id });
  await client.responses.create({ model, input: 'right', previous_response_id: first.id });
  const recalled = await client.responses.create({ model, input: 'RECALL', previous_response_id: left.id });
  assert.equal(recalled.output_text, `you said: my name is ${word} / left`);
});

test('reasoning items sent back keep their encrypted content', async () => {
  const word = mark();
  const first = await client.responses.create({
    model,
    input: `THINK "thought ${word}" SAY one`,
    reasoning: { effort: 'low', summary: 'auto' },
    include: ['reasoning.encrypted_content'],
  });
  const [reasoning, message] = first.output;
  assert.equal(reasoning.summary.map((part) => part.text).join(''), `thought ${word}`);
  assert.ok(reasoning.encrypted_content);
  assert.equal(message.content[0].text, 'one');
  await client.responses.create({ model, input: [...first.output, { role: 'user', content: `${word}x` }] });
  const body = await seenOnce(`${word}x`);
  assert.deepEqual(said(body), ['reasoning', 'assistant: one', `user: ${word}x`]);
  assert.equal(body.input[0].encrypted_content, reasoning.encrypted_content);
});

test('an image reaches the model as it is', async () => {
  const [word, image] = [mark(), png(0, 0, 255)];
  const content = [
    { type: 'input_text', text: word },
    { type: 'input_image', image_url: dataUrl(image), detail: 'auto' },
  ];
  await client.responses.create({ model, input: [{ role: 'user', content }] });
  const part = (await seenOnce(word)).input[0].content[1];
  assert.equal(part.type, 'input_image');
  assert.equal(part.image_url, dataUrl(image));
});

test('settings reach the model, what cannot be honoured is named', async () => {
  const word = mark();
  const { data, response } = await client.responses
    .create({
      model,
      input: `SAY ${word}`,
      reasoning: { effort: 'low' },
      text: { verbosity: 'low' },
      service_tier: 'flex',
      temperature: 0.5,
      made_up: true,
    })
    .withResponse();
  assert.equal(data.output_text, word);
  const body = await seenOnce(word);
  assert.equal(body.reasoning.effort, 'low');
  assert.equal(body.text.verbosity, 'low');
  assert.equal(body.service_tier, 'flex');
  const ignored = response.headers.get('x-codex-bridge-ignored').split(',').map((name) => name.trim());
  assert.ok(ignored.includes('temperature') && ignored.includes('made_up'), ignored.join());
});
