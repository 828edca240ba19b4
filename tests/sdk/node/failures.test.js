import assert from 'node:assert/strict';
import { test } from 'node:test';
import { OpenAI, client, dataUrl, health, loggedIn, mark, model, seen, until, untilIdle, withKey } from './support.js';

const ask = (input, extra = {}) => client.responses.create({ model, input, ...extra });
const chat = (content, extra = {}) =>
  client.chat.completions.create({ model, messages: [{ role: 'user', content }], ...extra });

// The error of a call, checked for its class.
async function failure(call, kind) {
  const error = await call().then(
    () => assert.fail('it succeeded'),
    (error) => error,
  );
  assert.ok(error instanceof kind, `${error.constructor.name}: ${error.message}`);
  return error;
}

test('a wrong key', async () => {
  const error = await failure(() => withKey('wrong').models.list(), OpenAI.AuthenticationError);
  assert.equal(error.code, 'invalid_api_key');
});

test('an unknown model, before anything is sent', async () => {
  const word = mark();
  const calls = [
    () => ask(word, { model: 'no-such' }),
    () => ask(word, { model: 'no-such', stream: true }),
    () => chat(word, { model: 'no-such' }),
  ];
  for (const call of calls) {
    const error = await failure(call, OpenAI.NotFoundError);
    assert.deepEqual([error.code, error.param], ['model_not_found', 'model']);
  }
  assert.deepEqual(await seen(word), []);
});

test('a bad request names its field', async () => {
  const error = await failure(() => ask([{ role: 'nobody', content: 'x' }]), OpenAI.BadRequestError);
  assert.equal(error.type, 'invalid_request_error');
  assert.equal(error.param, 'input[0].role');
  const previous = await failure(() => ask('x', { previous_response_id: 'resp_none' }), OpenAI.BadRequestError);
  assert.deepEqual([previous.code, previous.param], ['previous_response_not_found', 'previous_response_id']);
});

test('a corrupt image', async () => {
  const url = dataUrl(Buffer.from('not an image'));
  const content = [{ type: 'image_url', image_url: { url } }];
  const error = await failure(() => chat(content), OpenAI.BadRequestError);
  assert.equal(error.param, 'messages[0].content[0].image_url.url');
});

test('the usage limit and the context window', async () => {
  for (const call of [() => ask('FAIL usage'), () => ask('FAIL usage', { stream: true }), () => chat('FAIL usage')]) {
    const error = await failure(call, OpenAI.RateLimitError);
    assert.equal(error.code, 'usage_limit_reached');
    if (loggedIn) assert.ok(Number(error.headers.get('retry-after')) >= 1);
  }
  const error = await failure(() => ask('FAIL context'), OpenAI.BadRequestError);
  assert.equal(error.code, 'context_length_exceeded');
});

test('an expired login, which the app-server tries again first', async () => {
  assert.match((await failure(() => ask('FAIL 401'), OpenAI.AuthenticationError)).message, /codex login/);
});

test('leaving a stream interrupts its turn', async () => {
  for (const start of [() => ask('SLOW 1000 100', { stream: true }), () => chat('SLOW 1000 100', { stream: true })]) {
    const stream = await start();
    for await (const _ of stream) {
      assert.equal((await health()).slots.in_use, 1);
      break;
    }
    stream.controller.abort();
    await untilIdle();
  }
});

test('giving up on a whole answer interrupts its turn', async () => {
  const [word, giveUp] = [mark(), new AbortController()];
  const slow = { model, input: `${word} SLOW 1000 100` };
  const failed = failure(() => client.responses.create(slow, { signal: giveUp.signal }), OpenAI.APIUserAbortError);
  await until('the model has the request', async () => (await seen(word)).length === 1);
  giveUp.abort();
  await failed;
  await untilIdle();
});

test('fifty at once each get their own', async () => {
  const word = mark();
  const one = async (n) => {
    if (n % 2) return (await ask(`SAY ${word}-${n}`)).output_text;
    const stream = await chat(`SAY ${word}-${n}`, { stream: true });
    let text = '';
    for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? '';
    return text;
  };
  const numbers = [...Array(50).keys()];
  assert.deepEqual(await Promise.all(numbers.map(one)), numbers.map((n) => `${word}-${n}`));
  assert.equal((await seen(`${word}-`)).length, 50);
  await untilIdle();
});
