// What the Open Responses specification asks of a server, case by case, in plain HTTP and WebSocket: no SDK between.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, dataUrl, load, mark, model, png, said, seen, seenOnce } from './support.js';

const { WebSocket } = load('ws');
const url = `${client.baseURL}/responses`;
const headers = { authorization: `Bearer ${client.apiKey}`, 'content-type': 'application/json' };
const say = (role, content, rest = {}) => ({ type: 'message', role, content, ...rest });

// Each field that a response object must have, and what it may be.
const text = (value) => typeof value === 'string';
const number = (value) => typeof value === 'number';
const flag = (value) => typeof value === 'boolean';
const object = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
const or = (...checks) => (value) => checks.some((check) => check(value));
const none = (value) => value === null;
const RESPONSE = {
  id: text,
  object: (value) => value === 'response',
  created_at: Number.isInteger,
  completed_at: or(Number.isInteger, none),
  status: text,
  incomplete_details: or(object, none),
  model: text,
  previous_response_id: or(text, none),
  instructions: or(text, none),
  output: Array.isArray,
  error: or(object, none),
  tools: Array.isArray,
  tool_choice: or(text, object),
  truncation: (value) => ['auto', 'disabled'].includes(value),
  parallel_tool_calls: flag,
  text: (value) => object(value) && object(value.format),
  top_p: number,
  presence_penalty: number,
  frequency_penalty: number,
  top_logprobs: Number.isInteger,
  temperature: number,
  reasoning: (value) => none(value) || ('effort' in value && 'summary' in value),
  usage: (value) => none(value) || (object(value.input_tokens_details) && Number.isInteger(value.total_tokens)),
  max_output_tokens: or(Number.isInteger, none),
  max_tool_calls: or(Number.isInteger, none),
  store: flag,
  background: flag,
  service_tier: text,
  metadata: object,
  safety_identifier: or(text, none),
  prompt_cache_key: or(text, none),
};
const TOOL = { type: text, name: text, description: or(text, none), parameters: or(object, none), strict: or(flag, none) };
const ITEMS = {
  message: { id: text, status: text, role: text, content: Array.isArray },
  function_call: { id: text, call_id: text, name: text, arguments: text, status: text },
  reasoning: { id: text, summary: Array.isArray },
};
// Beside `type` and `sequence_number`.
const item = { output_index: Number.isInteger, item: object };
const part = { item_id: text, output_index: Number.isInteger, content_index: Number.isInteger };
const call = { item_id: text, output_index: Number.isInteger };
const whole = { response: object };
const EVENTS = {
  'response.created': whole,
  'response.in_progress': whole,
  'response.completed': whole,
  'response.incomplete': whole,
  'response.failed': whole,
  'response.output_item.added': item,
  'response.output_item.done': item,
  'response.content_part.added': { ...part, part: object },
  'response.content_part.done': { ...part, part: object },
  'response.output_text.delta': { ...part, delta: text, logprobs: Array.isArray },
  'response.output_text.done': { ...part, text, logprobs: Array.isArray },
  'response.function_call_arguments.delta': { ...call, delta: text },
  'response.function_call_arguments.done': { ...call, arguments: text },
};

function check(fields, value, what) {
  for (const [name, fits] of Object.entries(fields))
    assert.ok(name in value && fits(value[name]), `${what}.${name}: ${JSON.stringify(value[name])}`);
}

function checkResponse(response) {
  check(RESPONSE, response, 'response');
  for (const one of response.tools) if (one.type === 'function') check(TOOL, one, 'tool');
  for (const one of response.output) check(ITEMS[one.type] ?? {}, one, one.type);
  return response;
}

function checkEvents(events) {
  for (const event of events) {
    assert.ok(event.type in EVENTS, event.type);
    assert.ok(Number.isInteger(event.sequence_number), event.type);
    check(EVENTS[event.type], event, event.type);
    if (event.response) checkResponse(event.response);
  }
  return events;
}

async function create(body) {
  const answer = await fetch(url, { method: 'POST', headers, body: JSON.stringify({ model, ...body }) });
  assert.equal(answer.status, 200, await answer.clone().text());
  return answer;
}

const answered = async (body) => checkResponse(await (await create(body)).json());

async function streamed(body) {
  const lines = (await (await create({ ...body, stream: true })).text()).split('\n');
  const data = lines.filter((line) => line.startsWith('data: ')).map((line) => line.slice(6));
  assert.equal(data.pop(), '[DONE]');
  return checkEvents(data.map((line) => JSON.parse(line)));
}

// One request after the other on one socket, each made from the responses before it. Gives what ended each.
async function session(...steps) {
  const socket = new WebSocket(url.replace(/^http/, 'ws'), { headers });
  const messages = [];
  let wake = () => {};
  socket.on('message', (data, isBinary) => {
    assert.ok(!isBinary);
    messages.push(JSON.parse(data));
    wake();
  });
  socket.on('close', () => wake());
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
  try {
    return await ends(socket, messages, steps, () => new Promise((resolve) => (wake = resolve)));
  } finally {
    socket.close();
  }
}

async function ends(socket, messages, steps, woken) {
  const done = [];
  for (const step of steps) {
    const body = typeof step === 'function' ? step(done) : step;
    socket.send(JSON.stringify({ type: 'response.create', model, store: false, ...body }));
    const events = [];
    for (let over = false; !over; ) {
      while (messages.length === 0) {
        assert.equal(socket.readyState, WebSocket.OPEN);
        await woken();
      }
      const event = messages.shift();
      events.push(event);
      over = ['error', 'response.completed', 'response.failed', 'response.incomplete'].includes(event.type);
    }
    const last = events.at(-1);
    if (last.type === 'error') {
      check({ status: Number.isInteger, error: object }, last, 'error');
      check({ code: text, message: text }, last.error, 'error.error');
    } else {
      checkEvents(events);
    }
    done.push(last.response ?? last);
  }
  return done;
}

const textOf = (response) => response.output.flatMap((one) => one.content ?? []).map((one) => one.text).join('');

test('a whole answer', async () => {
  const response = await answered({ input: [say('user', 'Say hello in three words.')] });
  assert.equal(response.status, 'completed');
  assert.ok(response.output.length > 0);
});

test('a stream', async () => {
  const events = await streamed({ input: [say('user', 'Count to five.')] });
  assert.equal(events.at(-1).response.status, 'completed');
});

test('a system message', async () => {
  const word = mark();
  await answered({ input: [say('system', `${word} you are a pirate`), say('user', 'hello')] });
  assert.deepEqual(said(await seenOnce(word)), [`developer: ${word} you are a pirate`, 'user: hello']);
});

const tools = [
  {
    type: 'function',
    name: 'get_weather',
    description: 'The weather of a place',
    parameters: { type: 'object', properties: { location: { type: 'string' } }, required: ['location'] },
  },
];

test('a tool call, whole and streamed', async () => {
  const asked = { input: [say('user', 'How is the weather in Oslo?')], tools };
  const response = await answered(asked);
  assert.equal(response.output.filter((one) => one.type === 'function_call').length, 1);
  const kinds = (await streamed(asked)).map((event) => `${event.type} ${event.item?.type ?? ''}`.trim());
  for (const kind of ['response.output_item.added function_call', 'response.function_call_arguments.delta',
    'response.function_call_arguments.done', 'response.output_item.done function_call'])
    assert.ok(kinds.includes(kind), kind);
});

test('a tool call answered in the input', async () => {
  const asked = say('user', 'How is the weather in Oslo?');
  const { output } = await answered({ input: [asked], tools });
  const { call_id } = output.find((one) => one.type === 'function_call');
  const answer = { type: 'function_call_output', call_id, output: 'rain' };
  assert.equal(textOf(await answered({ input: [asked, ...output, answer], tools })), 'tool said: rain');
});

test('an image', async () => {
  const content = [
    { type: 'input_text', text: 'What is it?' },
    { type: 'input_image', image_url: dataUrl(png(200, 10, 10)) },
  ];
  assert.equal((await answered({ input: [say('user', content)] })).status, 'completed');
});

test('a conversation that is sent whole', async () => {
  const input = [say('user', 'My name is Alice.'), say('assistant', 'Hello Alice!'), say('user', 'What is my name?')];
  assert.match(textOf(await answered({ input })), /Alice/);
});

test('phases of the assistant are kept', async () => {
  const word = mark();
  const input = [
    say('user', `${word} look into it`),
    say('assistant', 'Looking.', { phase: 'commentary' }),
    say('assistant', 'Found it.', { phase: 'final_answer' }),
    say('user', 'And?'),
  ];
  for (const answer of [await answered({ input }), (await streamed({ input })).at(-1).response])
    assert.equal(answer.status, 'completed');
  for (const body of await seen(word))
    assert.deepEqual(body.input.map((one) => one.phase).filter(Boolean), ['commentary', 'final_answer']);
});

test('a socket: one answer, and several', async () => {
  const [one] = await session({ input: [say('user', 'Count to three.')], store: undefined });
  assert.deepEqual([one.status, one.store], ['completed', true]);
  const both = await session({ input: 'SAY first' }, { input: 'SAY second' });
  assert.deepEqual(both.map(textOf), ['first', 'second']);
});

test('a socket: what is not stored is continued with new input alone', async () => {
  const ends = await session({ input: 'The code word is cobalt.' }, ([{ id }]) => ({
    input: 'What is the code word?',
    previous_response_id: id,
  }));
  assert.match(textOf(ends[1]), /cobalt/);
  assert.equal(ends[1].previous_response_id, ends[0].id);
});

test('a socket: what is not stored is lost with it', async () => {
  const [{ id }] = await session({ input: 'The code word is copper.' });
  const [lost, anew] = await session({ input: 'x', previous_response_id: id }, { input: 'SAY recovered' });
  assert.deepEqual([lost.status, lost.error.code], [400, 'previous_response_not_found']);
  assert.equal(textOf(anew), 'recovered');
});

test('a socket: a warm-up', async () => {
  const [warm, later] = await session({ input: 'The code word is warm.', generate: false }, ([{ id }]) => ({
    input: 'What is the code word?',
    previous_response_id: id,
  }));
  assert.deepEqual(warm.output, []);
  assert.match(textOf(later), /warm/);
});

test('a socket: what was never there', async () => {
  const [missing] = await session({ input: 'x', previous_response_id: 'resp_never' });
  assert.equal(missing.error.code, 'previous_response_not_found');
});

test('a socket: a continuation that failed cannot be tried again', async () => {
  const wrong = [{ type: 'function_call_output', call_id: 'call_never', output: 'x' }];
  const [, failed, again] = await session(
    { input: 'The code word is ember.' },
    ([{ id }]) => ({ input: wrong, previous_response_id: id }),
    ([{ id }]) => ({ input: 'x', previous_response_id: id }),
  );
  assert.equal(failed.type, 'error');
  assert.equal(again.error.code, 'previous_response_not_found');
});
