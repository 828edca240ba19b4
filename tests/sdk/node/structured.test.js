import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, collect, load, mark, model, nativeLoop, said, seen, seenOnce, untilIdle } from './support.js';

const { zodFunction, zodResponsesFunction, zodResponseFormat, zodTextFormat } = load('openai/helpers/zod');
const { LengthFinishReasonError } = load('openai/error');
const { z } = load('zod');

const Solution = z.object({
  kind: z.enum(['short', 'long']),
  steps: z.array(z.object({ explanation: z.string(), output: z.string().nullable() })),
  score: z.number(),
});
// Not strict: not everything is required.
const loose = { type: 'object', properties: { a: { type: 'integer' } }, required: ['a'] };
const user = (content) => [{ role: 'user', content }];

test('responses.parse gives a typed object', async () => {
  const word = mark();
  const format = zodTextFormat(Solution, 'solution');
  const response = await client.responses.parse({ model, input: `solve ${word}`, text: { format } });
  assert.deepEqual(Solution.parse(response.output_parsed), response.output_parsed);
  assert.equal(response.text.format.name, 'solution');
  const body = await seenOnce(word);
  assert.equal(body.text.format.strict, true);
  assert.deepEqual(Object.keys(body.text.format.schema.properties), ['kind', 'steps', 'score']);
});

test('a streamed structured answer is parsed too', async () => {
  const format = zodTextFormat(Solution, 'solution');
  const stream = client.responses.stream({ model, input: `solve ${mark()}`, text: { format } });
  let text = '';
  stream.on('response.output_text.delta', (event) => (text += event.delta));
  const final = await stream.finalResponse();
  assert.deepEqual(final.output_parsed, Solution.parse(JSON.parse(text)));
});

test('chat.completions.parse gives a typed object, streamed or not', async () => {
  const request = { model, messages: user(`solve ${mark()}`), response_format: zodResponseFormat(Solution, 's') };
  const whole = await client.chat.completions.parse(request);
  Solution.parse(whole.choices[0].message.parsed);
  const streamed = await client.chat.completions.stream(request).finalChatCompletion();
  Solution.parse(streamed.choices[0].message.parsed);
});

const Weather = { name: 'get_weather', parameters: z.object({ city: z.string() }) };

test('a typed answer at the end of a tool loop, in both APIs', async () => {
  const word = mark();
  const fields = { model, tools: [zodResponsesFunction(Weather)], text: { format: zodTextFormat(Solution, 's') } };
  const first = await client.responses.parse({ ...fields, input: `${word} CALLTOOL get_weather {"city": "Bonn"}` });
  const [call] = first.output;
  assert.deepEqual(call.parsed_arguments, { city: 'Bonn' });
  const input = [{ type: 'function_call_output', call_id: call.call_id, output: 'a long answer, 7' }];
  const stream = client.responses.stream({ ...fields, input, previous_response_id: first.id });
  const { output_parsed: parsed } = await stream.finalResponse();
  assert.deepEqual([parsed.kind, parsed.score], ['long', 7]);
  await nativeLoop(word, 1);

  const other = mark();
  const messages = user(`${other} CALLTOOL get_weather {"city": "Bonn"}`);
  const chat = { model, messages, tools: [zodFunction(Weather)], response_format: zodResponseFormat(Solution, 's') };
  const { message } = (await client.chat.completions.parse(chat)).choices[0];
  assert.deepEqual(message.tool_calls[0].function.parsed_arguments, { city: 'Bonn' });
  messages.push(message, { role: 'tool', tool_call_id: message.tool_calls[0].id, content: 'a short answer, 3' });
  const last = await client.chat.completions.stream(chat).finalChatCompletion();
  assert.deepEqual([last.choices[0].message.parsed.kind, last.choices[0].message.parsed.score], ['short', 3]);
  await nativeLoop(other, 1);
});

test('an answer that is cut is not parsed', async () => {
  const chat = { model, messages: user(`solve ${mark()}`), response_format: zodResponseFormat(Solution, 's') };
  const cut = { ...chat, max_completion_tokens: 4 };
  await assert.rejects(client.chat.completions.parse(cut), LengthFinishReasonError);
  await assert.rejects(client.chat.completions.stream(cut).finalChatCompletion(), LengthFinishReasonError);
  const response = await client.responses.create({ model, input: `SAY ${'word '.repeat(99)}`, max_output_tokens: 16 });
  assert.deepEqual([response.status, response.incomplete_details.reason], ['incomplete', 'max_output_tokens']);
  await untilIdle();
});

test('json_object is asked for and checked', async () => {
  const word = mark();
  const messages = user(`give JSON {"mark": "${word}"}`);
  const completion = await client.chat.completions.create({
    model,
    messages,
    response_format: { type: 'json_object' },
  });
  assert.deepEqual(JSON.parse(completion.choices[0].message.content), { mark: word });
  assert.match(said(await seenOnce(word))[0], /^developer: .*JSON object/);
});

test('an answer that stays wrong is an error after one repair', async () => {
  for (const stream of [false, true]) {
    const word = mark();
    const format = { type: 'json_schema', name: 'n', schema: loose, strict: false };
    const asked = client.responses.create({ model, input: `${word} JSON {"a": "x"}`, text: { format }, stream });
    await assert.rejects(
      asked.then((events) => (stream ? collect(events) : events)),
      (error) => error.code === 'invalid_structured_output',
    );
    assert.equal((await seen(word)).length, 2);
  }
});

test('a schema that strict mode refuses is named with the place', async () => {
  const schema = { ...loose, additionalProperties: false, required: [] };
  const format = { type: 'json_schema', name: 'n', schema, strict: true };
  await assert.rejects(client.responses.create({ model, input: 'hi', text: { format } }), (error) => {
    assert.deepEqual([error.status, error.param, error.code], [400, 'text.format.schema', 'invalid_json_schema']);
    return error.message.includes("Missing 'a'");
  });
});
