import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, collect, dataUrl, inputTokens, mark, model, png, said, seen, seenOnce } from './support.js';

const user = (content) => [{ role: 'user', content }];

test('a whole answer and its usage', async () => {
  const word = mark();
  const completion = await client.chat.completions.create({ model, messages: user(`hello ${word}`) });
  assert.equal(completion.object, 'chat.completion');
  assert.equal(completion.choices.length, 1);
  assert.equal(completion.choices[0].message.content, `echo: hello ${word}`);
  assert.equal(completion.choices[0].finish_reason, 'stop');
  const tokens = inputTokens(await seenOnce(word));
  const { usage } = completion;
  assert.deepEqual([usage.prompt_tokens, usage.completion_tokens, usage.total_tokens], [tokens, 3, tokens + 3]);
  assert.equal(usage.prompt_tokens_details.cached_tokens, Math.floor(tokens / 2));
  assert.equal(usage.completion_tokens_details.reasoning_tokens, 0);
});

test('a stream with usage', async () => {
  const word = mark();
  const text = `${word} Grüße, 世界\n\nsecond line`;
  const stream = await client.chat.completions.create({
    model,
    messages: user(`SAY ${text}`),
    stream: true,
    stream_options: { include_usage: true },
  });
  const chunks = await collect(stream);
  const choices = chunks.flatMap((chunk) => chunk.choices);
  assert.equal(choices.map((choice) => choice.delta.content ?? '').join(''), text);
  assert.deepEqual(choices.map((choice) => choice.finish_reason).filter(Boolean), ['stop']);
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.prompt_tokens, inputTokens(await seenOnce(word)));
  assert.ok(chunks.slice(0, -1).every((chunk) => chunk.usage === null));
});

test('a stream without usage, through the helper', async () => {
  const word = mark();
  const stream = client.chat.completions.stream({ model, messages: user(`SAY ${word} one two`) });
  let text = '';
  stream.on('content', (delta) => (text += delta));
  const final = await stream.finalChatCompletion();
  assert.equal(text, `${word} one two`);
  assert.equal(final.choices[0].message.content, text);
});

test('every role and content form, history included', async () => {
  const word = mark();
  const completion = await client.chat.completions.create({
    model,
    messages: [
      { role: 'system', content: `system ${word}` },
      { role: 'developer', content: [{ type: 'text', text: 'developer' }] },
      { role: 'user', content: [{ type: 'text', text: 'one' }, { type: 'image_url', image_url: { url: dataUrl(png(1, 2, 3)) } }] },
      { role: 'assistant', content: 'two' },
      { role: 'user', content: 'RECALL' },
    ],
  });
  assert.equal(completion.choices[0].message.content, 'you said: one');
  const body = await seenOnce(word);
  assert.deepEqual(said(body), [
    `developer: system ${word}`,
    'developer: developer',
    'user: one|input_image',
    'assistant: two',
    'user: RECALL',
  ]);
  assert.equal(body.input[2].content[1].image_url, dataUrl(png(1, 2, 3)));
});

test('several choices', async () => {
  const word = mark();
  const completion = await client.chat.completions.create({ model, messages: user(`SAY ${word}`), n: 3 });
  assert.deepEqual(completion.choices.map((choice) => choice.index), [0, 1, 2]);
  assert.ok(completion.choices.every((choice) => choice.message.content === word));
  assert.equal((await seen(word)).length, 3);
});

test('reasoning content only where it is asked for', async () => {
  const messages = user('THINK "a thought" SAY done');
  const plain = await client.chat.completions.create({ model, messages });
  assert.ok(!('reasoning_content' in plain.choices[0].message));
  const asked = await client.chat.completions.create({ model, messages, reasoning: { summary: 'auto' } });
  assert.equal(asked.choices[0].message.reasoning_content, 'a thought');
});

test('settings reach the model', async () => {
  const word = mark();
  await client.chat.completions.create({
    model,
    messages: user(word),
    reasoning_effort: 'low',
    verbosity: 'low',
    service_tier: 'priority',
  });
  const body = await seenOnce(word);
  assert.equal(body.reasoning.effort, 'low');
  assert.equal(body.text.verbosity, 'low');
  assert.equal(body.service_tier, 'priority');
});
