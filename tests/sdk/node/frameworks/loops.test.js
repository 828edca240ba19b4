// The same tool loops through every framework, and what the model saw of them: one native turn each.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, heldTurns, load, mark, model, nativeLoop, offered, seenOnce } from '../support.js';
import { loops, vercel } from './loops.js';

const { z } = load('zod');

const call = (name, given = {}) => `CALLTOOL ${name} ${JSON.stringify(given)}`;

const weather = {
  name: 'get_weather',
  description: 'The weather in a city.',
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => `sunny in ${city}`,
};
const time = {
  name: 'get_time',
  description: 'The time in a zone.',
  parameters: z.object({ zone: z.string() }),
  execute: async ({ zone }) => `noon in ${zone}`,
};
const step = {
  name: 'step',
  description: 'One step of three; the model is told to take the next.',
  parameters: z.object({ n: z.number() }),
  execute: async ({ n }) => (n < 3 ? call('step', { n: n + 1 }) : 'all done'),
};
const named = (name) => ({
  name,
  description: `The tool ${name}`,
  parameters: z.object({}),
  execute: async () => `I am ${name}`,
});
// Codex keeps some of these for itself and does not take others; it is told another name.
const refused = ['exec_command', 'view_image', 'mcp__x', 'x'.repeat(70), 'dotted.name'];

const checks = {
  'a single call': async (run, word) => {
    const said = await run(model, `${word} ${call('get_weather', { city: 'Paris' })}`, [weather]);
    assert.equal(said, 'tool said: sunny in Paris');
    const [, last] = await nativeLoop(word, 1);
    assert.equal(last.input.at(-1).output, 'sunny in Paris');
  },
  'parallel calls': async (run, word) => {
    const text = `${word} ${call('get_weather', { city: 'Oslo' })} ${call('get_time', { zone: 'UTC' })}`;
    assert.equal(await run(model, text, [weather, time]), 'tool said: sunny in Oslo, noon in UTC');
    await nativeLoop(word, 1);
  },
  'three rounds with a thought in each': async (run, word) => {
    assert.match(await run(model, `${word} THINK "which tool" ${call('step', { n: 1 })}`, [step]), /all done$/);
    const bodies = await nativeLoop(word, 3);
    assert.equal(bodies.at(-1).input.filter((item) => item.type === 'reasoning').length, 3);
  },
  'twenty tools': async (run, word) => {
    const tools = Array.from({ length: 20 }, (_, n) => named(`tool_${n}`));
    const said = await run(model, `${word} ${call('tool_7')} ${call('tool_19')}`, tools);
    assert.equal(said, 'tool said: I am tool_7, I am tool_19');
    const [first] = await nativeLoop(word, 1);
    assert.deepEqual(offered(first).map((tool) => tool.name).sort(), tools.map((tool) => tool.name).sort());
  },
  'names that Codex does not take': async (run, word) => {
    const tools = refused.map(named);
    await run(model, `SAY ${word}`, tools);
    const upstream = new Map(offered(await seenOnce(word)).map((tool) => [tool.description, tool.name]));
    assert.ok(refused.every((name) => ![...upstream.values()].includes(name)));
    const calls = refused.map((name) => call(upstream.get(`The tool ${name}`)));
    const said = await run(model, `again ${word} ${calls.join(' ')}`, tools);
    assert.equal(said, `tool said: ${refused.map((name) => `I am ${name}`).join(', ')}`);
    await nativeLoop(`again ${word}`, 1);
  },
};

for (const [name, run] of Object.entries(loops)) {
  for (const [what, check] of Object.entries(checks)) {
    test(`${name}: ${what}`, async () => {
      const held = await heldTurns();
      await check(run, mark());
      assert.equal(await heldTurns(), held);
    });
  }
}

test('AI SDK: a loop after an earlier response', async () => {
  const first = await client.responses.create({ model, input: 'my word is plum', tools: [] });
  const word = mark();
  const run = vercel('responses', false, { previousResponseId: first.id });
  await checks['three rounds with a thought in each'](run, word);
  assert.equal(await run(model, 'RECALL', []), 'you said: my word is plum');
});
