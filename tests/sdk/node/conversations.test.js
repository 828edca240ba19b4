// Conversations, stored chat completions, and the completions of old.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, mark, model, OpenAI } from './support.js';

test('a conversation is gone on with', async () => {
  const word = mark();
  const made = await client.conversations.create({ metadata: { topic: word }, items: [{ role: 'user', content: 'hi' }] });
  const first = await client.responses.create({ model, conversation: made.id, input: `SAY ${word}` });
  assert.equal(first.output_text, word);
  assert.deepEqual(first.conversation, { id: made.id });
  const stream = await client.responses.create({ model, conversation: { id: made.id }, input: 'SAY two', stream: true });
  for await (const event of stream) if (event.type === 'response.completed') assert.equal(event.response.output[0].type, 'message');
  const texts = [];
  for await (const item of client.conversations.items.list(made.id, { order: 'asc', limit: 2 })) {
    if (item.type === 'message') texts.push(item.content[0].text);
  }
  assert.deepEqual(texts, ['hi', `SAY ${word}`, word, 'SAY two', 'two']);

  const added = await client.conversations.items.create(made.id, { items: [{ role: 'user', content: 'more' }] });
  const [{ id }] = added.data;
  const read = await client.conversations.items.retrieve(id, { conversation_id: made.id });
  assert.deepEqual({ ...read }, { ...added.data[0] });
  await client.conversations.items.delete(id, { conversation_id: made.id });
  await assert.rejects(client.conversations.items.retrieve(id, { conversation_id: made.id }), OpenAI.NotFoundError);
  const changed = await client.conversations.update(made.id, { metadata: { topic: 'other' } });
  assert.deepEqual(changed.metadata, { topic: 'other' });
  assert.equal((await client.conversations.delete(made.id)).deleted, true);
  await assert.rejects(client.conversations.retrieve(made.id), OpenAI.NotFoundError);
});

test('chat completions are stored, listed and deleted', async () => {
  const word = mark();
  const ask = { model, messages: [{ role: 'user', content: 'SAY one' }], store: true, metadata: { word } };
  const whole = await client.chat.completions.create(ask);
  let streamed;
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) streamed = chunk.id;
  const ids = [];
  for await (const one of client.chat.completions.list({ metadata: { word }, limit: 1 })) ids.push(one.id);
  assert.deepEqual(ids, [whole.id, streamed]);
  const read = await client.chat.completions.retrieve(streamed);
  assert.equal(read.choices[0].message.content, 'one');
  const messages = [];
  for await (const message of client.chat.completions.messages.list(whole.id)) messages.push(message.content);
  assert.deepEqual(messages, ['SAY one']);
  const changed = await client.chat.completions.update(whole.id, { metadata: { word: 'other' } });
  assert.deepEqual(changed.metadata, { word: 'other' });
  assert.equal((await client.chat.completions.delete(whole.id)).deleted, true);
  await assert.rejects(client.chat.completions.retrieve(whole.id), OpenAI.NotFoundError);
});

test('the completions of old', async () => {
  const word = mark();
  const whole = await client.completions.create({ model, prompt: `SAY ${word}`, max_tokens: 64, n: 2 });
  assert.deepEqual(whole.choices.map((choice) => choice.text), [word, word]);
  let text = '';
  for await (const chunk of await client.completions.create({ model, prompt: 'SAY a b', stream: true, max_tokens: 64 })) {
    text += chunk.choices[0].text;
  }
  assert.equal(text, 'a b');
});
