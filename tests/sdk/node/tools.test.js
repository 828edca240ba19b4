import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, collect, load, mark, model, said, seen, untilIdle } from './support.js';

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
