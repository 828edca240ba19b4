import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, collect, loggedIn, mark, model, seen, untilIdle } from './support.js';

const find = { type: 'function', name: 'find', strict: false, parameters: { type: 'object', properties: {} } };
const note = { type: 'custom', name: 'note' };
const crm = { type: 'namespace', name: 'crm', description: 'Customers.', tools: [find, note] };

test('a namespaced function and a custom tool in one batch', async () => {
  const word = mark();
  const tools = [find, crm];
  const input = `${word} CALLTOOL crm.find {} CALLTOOL crm.note {"input": "a b"}`;
  const first = await client.responses.create({ model, input, tools });
  assert.deepEqual(
    first.output.map((item) => [item.type, item.namespace, item.name]),
    [['function_call', 'crm', 'find'], ['custom_tool_call', 'crm', 'note']],
  );
  assert.equal(first.output[1].input, 'a b');
  const outputs = first.output.map((item) => ({
    type: item.type === 'function_call' ? 'function_call_output' : 'custom_tool_call_output',
    call_id: item.call_id,
    output: item.name,
  }));
  const second = await client.responses.create({ model, input: outputs, previous_response_id: first.id, tools });
  assert.equal(second.output_text, 'tool said: find, note');
  const bodies = await seen(word);
  assert.equal(bodies[0].prompt_cache_key, bodies[1].prompt_cache_key);
  await untilIdle();
});

test('a streamed custom call over chat', async () => {
  const stream = await client.chat.completions.create({
    model,
    messages: [{ role: 'user', content: `${mark()} CALLTOOL note {"input": "a b"}` }],
    tools: [{ type: 'custom', custom: { name: 'note' } }],
    stream: true,
  });
  const chunks = await collect(stream);
  const calls = chunks.flatMap((chunk) => chunk.choices[0]?.delta.tool_calls ?? []);
  assert.equal(calls[0].type, 'custom');
  assert.equal(calls.map((call) => call.custom.input).join(''), 'a b');
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'tool_calls');
  await untilIdle();
});

test('image generation, where a login brings it', async () => {
  const request = {
    model,
    input: `${mark()} CALLTOOL image_gen.imagegen {"prompt": "a cat"}`,
    tools: [{ type: 'image_generation' }],
  };
  if (!loggedIn) {
    await assert.rejects(client.responses.create(request), { status: 400, code: 'unsupported_tool' });
    return;
  }
  const answer = await client.responses.create(request);
  const [image, message] = answer.output;
  assert.deepEqual([image.type, image.status, message.type], ['image_generation_call', 'completed', 'message']);
  assert.equal(Buffer.from(image.result, 'base64').subarray(1, 4).toString(), 'PNG');
  await untilIdle();
});
