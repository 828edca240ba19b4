// Keys with limits of their own: what an SDK makes of them.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OpenAI, client, mark, model, seen, seenOnce, untilIdle, withKey } from './support.js';

const { KEY_RATED, KEY_NARROW, NARROW_MODEL } = process.env;

test('a used up rate is a RateLimitError', async () => {
  const rated = withKey(KEY_RATED);
  const word = mark();
  const { data, response } = await rated.responses.create({ model, input: `SAY ${word} one` }).withResponse();
  assert.equal(data.output_text, `${word} one`);
  assert.equal(response.headers.get('x-ratelimit-limit-requests'), '3');
  assert.equal(response.headers.get('x-ratelimit-remaining-requests'), '2');
  assert.equal(response.headers.get('x-ratelimit-limit-tokens'), '1000000');
  assert.match(response.headers.get('x-ratelimit-reset-tokens'), /^\d+(ms|s|m\d+s)$/);
  const messages = [{ role: 'user', content: `SAY ${word} two` }];
  await rated.chat.completions.create({ model, messages });
  for await (const event of await rated.responses.create({ model, input: `SAY ${word} three`, stream: true })) {
    assert.ok(event.type !== 'response.failed' && event.type !== 'error');
  }

  const refused = mark();
  const calls = [
    () => rated.responses.create({ model, input: refused }),
    () => rated.chat.completions.create({ model, messages: [{ role: 'user', content: refused }], stream: true }),
  ];
  for (const call of calls) {
    await assert.rejects(call, (error) => {
      assert.ok(error instanceof OpenAI.RateLimitError, String(error));
      assert.equal(error.code, 'rate_limit_exceeded');
      assert.equal(error.headers.get('x-ratelimit-remaining-requests'), '0');
      const wait = Number(error.headers.get('retry-after'));
      assert.ok(wait >= 1 && wait <= 20, String(wait));
      return true;
    });
  }
  assert.deepEqual(await seen(refused), []);
  await untilIdle();
});

test('a key has its models alone', async () => {
  const narrow = withKey(KEY_NARROW);
  const ids = async (client) => (await client.models.list()).data.map(({ id }) => id);
  assert.deepEqual(await ids(narrow), [NARROW_MODEL]);
  const other = (await ids(client)).find((id) => id !== NARROW_MODEL);
  const word = mark();
  await assert.rejects(() => narrow.responses.create({ model: other, input: word }), (error) => {
    assert.ok(error instanceof OpenAI.PermissionDeniedError, String(error));
    assert.equal(error.code, 'model_not_found');
    return true;
  });
  assert.deepEqual(await seen(word), []);
  const response = await narrow.responses.create({ input: `SAY ${word}` });
  assert.deepEqual([response.model, response.output_text], [NARROW_MODEL, word]);
  assert.equal((await seenOnce(word)).model, NARROW_MODEL);
  await untilIdle();
});
