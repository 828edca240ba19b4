import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, collect, load, mark, model, said, seen, seenOnce } from './support.js';

const { zodTextFormat, zodResponseFormat } = load('openai/helpers/zod');
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
