import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, mark, model, seen, seenOnce } from './support.js';

test('a class by metadata and by header', async () => {
  for (const ask of [
    [{ metadata: { task_class: 'normalization' } }, {}],
    [{}, { headers: { 'x-codex-bridge-task-class': 'normalization' } }],
  ]) {
    const word = mark();
    const answer = await client.responses.create({ model, input: `SAY ${word}`, ...ask[0] }, ask[1]);
    assert.deepEqual([answer.output_text, answer.max_output_tokens], [word, 4096]);
    assert.equal((await seenOnce(word)).text.verbosity, 'low');
  }
  const unknown = client.responses.create({ model, input: 'hi', metadata: { task_class: 'nope' } });
  await assert.rejects(unknown, (error) => {
    assert.deepEqual([error.status, error.code, error.param], [400, 'unknown_task_class', 'metadata.task_class']);
    return true;
  });
});

test('a dry run tells and does nothing', async () => {
  const word = mark();
  const messages = [{ role: 'user', content: `SAY ${word}` }];
  const [response, completion] = [
    await client.responses.create({ model, input: `SAY ${word}` }, { query: { dry_run: true } }),
    await client.chat.completions.create({ model, messages }, { query: { dry_run: 'full' } }),
  ];
  for (const told of [response, completion]) {
    assert.deepEqual([told.object, told.route, told.inject.count], ['bridge.dry_run', 'fresh', 1]);
    assert.equal(told.thread.params.ephemeral, true);
  }
  assert.equal(response.inject.items, undefined);
  assert.equal(completion.inject.items[0].content[0].text, `SAY ${word}`);
  assert.deepEqual(await seen(word), []);
});
