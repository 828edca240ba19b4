import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  client,
  collect,
  dataUrl,
  load,
  mark,
  model,
  nativeLoop,
  offered,
  png,
  said,
  seen,
  seenOnce,
  untilIdle,
} from './support.js';

const { zodFunction } = load('openai/helpers/zod');
const { z } = load('zod');

const parameters = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] };
const weather = { type: 'function', name: 'get_weather', parameters, strict: false };
const time = { type: 'function', name: 'get_time', parameters: { type: 'object', properties: {} }, strict: false };
const nested = ({ type, ...fields }) => ({ type, function: fields });
const both = (word) => `${word} CALLTOOL get_weather {"city": "Oslo"} CALLTOOL get_time {}`;
const user = (content) => [{ role: 'user', content }];

test('calls and their outputs, by previous_response_id', async () => {
  const word = mark();
  const tools = [weather, time];
  const first = await client.responses.create({ model, input: both(word), tools });
  const calls = first.output.filter((item) => item.type === 'function_call');
  assert.deepEqual(calls.map((call) => [call.name, JSON.parse(call.arguments)]), [
    ['get_weather', { city: 'Oslo' }],
    ['get_time', {}],
  ]);
  const outputs = calls.map((call) => ({ type: 'function_call_output', call_id: call.call_id, output: call.name }));
  const second = await client.responses.create({ model, input: outputs, previous_response_id: first.id, tools });
  assert.equal(second.output_text, 'tool said: get_weather, get_time');
  const bodies = await seen(word);
  assert.equal(bodies.length, 2);
  assert.deepEqual(bodies[1].input.slice(0, bodies[0].input.length), bodies[0].input);
  assert.deepEqual(said(bodies[1]).slice(-2), ['function_call_output', 'function_call_output']);
  await untilIdle();
});

test('streamed calls add up to the final response', async () => {
  const events = await collect(
    await client.responses.create({ model, input: both(mark()), tools: [weather, time], stream: true }),
  );
  const added = {};
  for (const event of events) {
    if (event.type === 'response.function_call_arguments.delta')
      added[event.item_id] = (added[event.item_id] ?? '') + event.delta;
  }
  const final = events.at(-1);
  assert.equal(final.type, 'response.completed');
  assert.deepEqual(final.response.output.map((call) => call.arguments), Object.values(added));
  await untilIdle();
});

test('chunks of calls: the head once, then arguments', async () => {
  const stream = await client.chat.completions.create({
    model,
    messages: user(both(mark())),
    tools: [nested(weather), nested(time)],
    stream: true,
  });
  const choices = (await collect(stream)).flatMap((chunk) => chunk.choices);
  const calls = choices.flatMap((choice) => choice.delta.tool_calls ?? []);
  for (const [index, name] of ['get_weather', 'get_time'].entries()) {
    const [head, ...rest] = calls.filter((call) => call.index === index);
    assert.equal(head.function.name, name);
    assert.ok(head.id && rest.every((call) => call.id === undefined && call.function.name === undefined));
  }
  assert.deepEqual(choices.map((choice) => choice.finish_reason).filter(Boolean), ['tool_calls']);
  await untilIdle();
});

test('runTools goes round until there is an answer', async () => {
  const word = mark();
  const asked = [];
  const tool = zodFunction({
    name: 'get_weather',
    parameters: z.object({ city: z.string() }),
    function: ({ city }) => {
      asked.push(city);
      return `sunny in ${city}`;
    },
  });
  for (const stream of [false, true]) {
    const messages = user(`${word} CALLTOOL get_weather {"city": "Rome"}`);
    const runner = client.chat.completions.runTools({ model, messages, tools: [tool], stream });
    assert.equal(await runner.finalContent(), 'tool said: sunny in Rome');
  }
  assert.deepEqual(asked, ['Rome', 'Rome']);
  await untilIdle();
});

// Its output asks for the next step, up to the third.
const step = ({ n }) => (n < 3 ? `CALLTOOL step {"n": ${n + 1}}` : 'all done');

test('three rounds are one turn', async () => {
  const tool = zodFunction({ name: 'step', parameters: z.object({ n: z.number() }), function: step });
  for (const stream of [false, true]) {
    const word = mark();
    const messages = user(`${word} CALLTOOL step {"n": 1}`);
    const runner = client.chat.completions.runTools({ model, messages, tools: [tool], stream });
    assert.match(await runner.finalContent(), /all done$/);
    await nativeLoop(word, 3);
  }
});

test('three rounds with the whole history each time, nothing stored', async () => {
  const word = mark();
  const tools = [{ type: 'function', name: 'step', parameters: { type: 'object', properties: {} }, strict: false }];
  const input = user(`${word} THINK "step by step" CALLTOOL step {"n": 1}`);
  for (;;) {
    const response = await client.responses.create({ model, input, tools, store: false });
    input.push(...response.output);
    const calls = response.output.filter((item) => item.type === 'function_call');
    if (calls.length === 0) break;
    for (const { call_id, arguments: given } of calls)
      input.push({ type: 'function_call_output', call_id, output: step(JSON.parse(given)) });
  }
  await nativeLoop(word, 3);
});

test('any name comes back as it was, and twenty tools arrive', async () => {
  const names = ['exec_command', 'view_image', 'mcp__x', 'x'.repeat(70), 'dotted.name'];
  const word = mark();
  const named = (name) => ({ ...time, name, description: `The tool ${name}` });
  const tools = [...names, ...Array.from({ length: 15 }, (_, n) => `tool_${n}`)].map(named);
  await client.responses.create({ model, input: `SAY ${word}`, tools });
  const given = offered(await seenOnce(word));
  assert.deepEqual(given.map((tool) => tool.description).sort(), tools.map((tool) => tool.description).sort());
  const upstream = new Map(given.map((tool) => [tool.description, tool.name]));
  const calls = names.map((name) => `CALLTOOL ${upstream.get(`The tool ${name}`)} {}`).join(' ');
  const first = await client.responses.create({ model, input: `again ${word} ${calls}`, tools });
  assert.deepEqual(first.output.map((call) => call.name), names);
  const input = first.output.map(({ call_id }) => ({ type: 'function_call_output', call_id, output: 'done' }));
  await client.responses.create({ model, input, previous_response_id: first.id, tools });
  await nativeLoop(`again ${word}`, 1);
});

test('an output may have an image', async () => {
  const word = mark();
  const first = await client.responses.create({ model, input: `${word} CALLTOOL get_time {}`, tools: [time] });
  const [{ call_id }] = first.output;
  const image_url = dataUrl(png(9, 8, 7));
  const output = [
    { type: 'input_text', text: 'look' },
    { type: 'input_image', image_url, detail: 'auto' },
  ];
  const input = [{ type: 'function_call_output', call_id, output }];
  await client.responses.create({ model, input, previous_response_id: first.id, tools: [time] });
  const [, last] = await nativeLoop(word, 1);
  assert.equal(last.input.at(-1).output[1].image_url, image_url);
});
