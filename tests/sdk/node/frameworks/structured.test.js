// Answers of a given form through every framework, with tools before them and without.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { heldTurns, load, mark, model, nativeLoop, seenOnce, untilIdle } from '../support.js';
import { loops } from './loops.js';

const { z } = load('zod');

const Report = z.object({ city: z.string(), degrees: z.number(), sunny: z.boolean() });
const weather = {
  name: 'get_weather',
  description: 'The weather in a city.',
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => `In ${city} it has 21 degrees`,
};

for (const [name, run] of Object.entries(loops)) {
  test(`${name}: a typed answer`, async () => {
    const word = mark();
    const report = Report.parse(await run(model, `It has 17 degrees in Lisbon, ${word}`, [], Report));
    assert.deepEqual([report.city, report.degrees], ['Lisbon', 17]);
    const { format } = (await seenOnce(word)).text;
    assert.deepEqual([format.type, format.strict], ['json_schema', true]);
    assert.deepEqual(Object.keys(format.schema.properties).sort(), ['city', 'degrees', 'sunny']);
    await untilIdle();
  });

  test(`${name}: a typed answer after a tool`, async () => {
    const word = mark();
    const held = await heldTurns();
    const text = `${word} CALLTOOL get_weather {"city": "Paris"}`;
    assert.equal(Report.parse(await run(model, text, [weather], Report)).degrees, 21);
    await nativeLoop(word, 1);
    assert.equal(await heldTurns(), held);
  });
}
