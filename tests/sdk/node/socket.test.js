// The WebSocket of GET /v1/responses through the SDK's own class.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, load, mark, model, said, seen, seenOnce, untilIdle, withKey } from './support.js';

const { ResponsesWS } = load('openai/resources/responses/ws');
const ENDS = ['response.completed', 'response.incomplete', 'response.failed'];

// The events of one response; an error event is thrown as the SDK gives it.
async function response(events) {
  const got = [];
  for (;;) {
    const { value, done } = await events.next();
    assert.ok(!done, `closed after ${JSON.stringify(got)}`);
    if (value.type === 'error') throw value.error;
    if (value.type !== 'message') continue;
    got.push(value.message);
    if (ENDS.includes(value.message.type)) return got;
  }
}

async function onSocket(talk) {
  const socket = new ResponsesWS(client);
  const events = socket.stream();
  const create = (fields) => socket.send({ type: 'response.create', model, ...fields });
  try {
    await talk({ create, next: () => response(events), socket });
  } finally {
    await events.return();
    socket.close();
  }
}

const textOf = (events) => events.at(-1).response.output.flatMap((item) => item.content ?? []).map((part) => part.text).join('');

test('turns on one socket, one after the other', async () => {
  const word = mark();
  await onSocket(async ({ create, next }) => {
    create({ input: `SAY ${word}`, store: false });
    // Sent before the first has ended: it waits for it.
    create({ input: `SAY ${word} again`, store: false });
    const first = await next();
    assert.deepEqual(first.map((event) => event.sequence_number), first.map((_, n) => n));
    assert.equal(textOf(first), word);
    assert.equal(textOf(await next()), `${word} again`);
    create({ input: 'RECALL', store: false, previous_response_id: first.at(-1).response.id });
    assert.equal(textOf(await next()), `you said: SAY ${word}`);
  });
  await untilIdle();
});

test('lanes side by side', async () => {
  await onSocket(async ({ create, next }) => {
    create({ input: `${mark()} SLOW 40 20`, store: false, stream_id: 'slow' });
    create({ input: `SAY quick`, store: false, stream_id: 'quick' });
    const both = [];
    const seenFrom = [];
    while (both.length < 2) {
      for (const event of await next()) {
        seenFrom.push(event.stream_id);
        if (ENDS.includes(event.type)) both.push(event.stream_id);
      }
    }
    assert.deepEqual(both, ['quick', 'slow'], 'the later one did not wait for the slower one');
    assert.ok(seenFrom.every((lane) => ['quick', 'slow'].includes(lane)));
  });
});

test('a warm-up asks nothing and is continued', async () => {
  const word = mark();
  await onSocket(async ({ create, next }) => {
    create({ input: `my name is ${word}`, store: false, generate: false });
    const warm = (await next()).at(-1).response;
    assert.deepEqual([warm.status, warm.output], ['completed', []]);
    assert.deepEqual(await seen(word), []);
    create({ input: 'RECALL', store: false, previous_response_id: warm.id });
    assert.equal(textOf(await next()), `you said: my name is ${word}`);
  });
  assert.deepEqual(said(await seenOnce(word)).slice(-2), [`user: my name is ${word}`, 'user: RECALL']);
});

test('mistakes are errors and the socket goes on', async () => {
  await onSocket(async ({ create, next }) => {
    create({ input: 'x', previous_response_id: 'resp_none' });
    await assert.rejects(next(), (error) => {
      assert.equal(error.error.error.code, 'previous_response_not_found');
      assert.equal(error.error.status, 400);
      return true;
    });
    create({ input: 'SAY on' });
    assert.equal(textOf(await next()), 'on');
  });
});

test('a client that leaves in mid-answer frees its slot', async () => {
  await onSocket(async ({ create, socket }) => {
    create({ input: `${mark()} SLOW 400 50` });
    await new Promise((resolve) => socket.once('response.output_text.delta', resolve));
  });
  await untilIdle();
});

test('a wrong key has no socket', async () => {
  const socket = new ResponsesWS(withKey('wrong'));
  const error = await new Promise((resolve) => socket.once('error', resolve));
  assert.match(error.message, /401/);
});
