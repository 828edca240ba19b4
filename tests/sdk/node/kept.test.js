// Stored responses: read again, listed, deleted.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, mark, model, OpenAI } from './support.js';

test('a stored response is read as it was told until it is deleted', async () => {
  const word = mark();
  const told = await client.responses.create({ model, input: `SAY ${word}`, metadata: { task: 'test' } });
  const read = await client.responses.retrieve(told.id);
  assert.equal(read.output_text, word);
  assert.deepEqual({ ...read, completed_at: null }, { ...told, completed_at: null });

  const next = await client.responses.create({ model, input: 'SAY next', previous_response_id: told.id });
  const texts = [];
  for await (const item of client.responses.inputItems.list(next.id, { order: 'asc', limit: 1 })) {
    if (item.type === 'message') texts.push(item.content[0].text);
  }
  assert.deepEqual(texts, [`SAY ${word}`, word, 'SAY next']);

  await client.responses.delete(told.id);
  await assert.rejects(client.responses.retrieve(told.id), OpenAI.NotFoundError);
});
