// Compaction: its output is the next input; background responses with a conversation.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, loggedIn, mark, model, OpenAI, said, seen } from './support.js';

test('what compact gives is the next input, and so on', async () => {
  const word = mark();
  const history = [
    { role: 'user', content: `my name is ${word}` },
    { role: 'assistant', content: 'hello', phase: 'commentary' },
  ];
  const compacted = await client.responses.compact({ model, input: history });
  assert.equal(compacted.object, 'response.compaction');
  assert.deepEqual(compacted.output.map((item) => item.role ?? item.type), ['user', 'compaction']);
  assert.ok(compacted.usage.total_tokens > 0);
  const after = [...compacted.output, { role: 'user', content: `RECALL ${word}` }];
  const answer = await client.responses.create({ model, input: after });
  assert.ok(answer.output_text.includes(`summary of: my name is ${word}`), answer.output_text);
  const lines = said((await seen(`RECALL ${word}`)).at(-1));
  assert.equal(lines.length, 3);
  assert.equal(lines[0], `user: my name is ${word}`);
  if (loggedIn) assert.equal(lines[1], 'compaction');
  else assert.match(lines[1], /^user: Another language model/);

  const rolled = await client.responses.compact({ model, previous_response_id: answer.id });
  assert.deepEqual(rolled.output.map((item) => item.role ?? item.type), ['user', 'user', 'compaction']);
  const last = await client.responses.create({ model, input: [...rolled.output, { role: 'user', content: 'RECALL' }] });
  assert.equal(last.output_text.split('summary of:').length, 3);
});

test('an item that was changed is refused', { skip: loggedIn }, async () => {
  const compacted = await client.responses.compact({ model, input: 'one' });
  const item = compacted.output.at(-1);
  const changed = { ...item, encrypted_content: `${item.encrypted_content.slice(0, -6)}AAAAAA` };
  await assert.rejects(client.responses.create({ model, input: [changed] }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, 'invalid_encrypted_content');
    return true;
  });
});

test('a background response goes on with its conversation', async () => {
  const word = mark();
  const made = await client.conversations.create({ items: [{ role: 'user', content: 'zero' }] });
  let response = await client.responses.create({ model, conversation: made.id, input: `SAY ${word}`, background: true });
  const deadline = Date.now() + 60_000;
  while (['queued', 'in_progress'].includes(response.status)) {
    assert.ok(Date.now() < deadline);
    await new Promise((resolve) => setTimeout(resolve, 50));
    response = await client.responses.retrieve(response.id);
  }
  assert.equal(response.output_text, word);
  const texts = [];
  for await (const item of client.conversations.items.list(made.id, { order: 'asc' })) texts.push(item.content[0].text);
  assert.deepEqual(texts, ['zero', `SAY ${word}`, word]);
});
