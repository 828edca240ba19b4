import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, mark, model, seen, seenOnce } from './support.js';

const base64 = (text) => Buffer.from(text).toString('base64');

// A file's text without the two lines around it.
function fileText(part, name) {
  const found = /^<file id=([0-9a-f]{16}) name=(\S+)>\n([^]*)\n<\/file id=\1>$/.exec(part.text);
  assert.equal(found?.[2], JSON.stringify(name), part.text);
  return found[3];
}

const ask = {
  responses: (word, file) =>
    client.responses.create({
      model,
      input: [{ role: 'user', content: [{ type: 'input_text', text: word }, { type: 'input_file', ...file }] }],
    }),
  chat: (word, file) =>
    client.chat.completions.create({
      model,
      messages: [{ role: 'user', content: [{ type: 'text', text: word }, { type: 'file', file }] }],
    }),
};

for (const [api, send] of Object.entries(ask)) {
  test(`${api}: a file is its text`, async () => {
    const word = mark();
    await send(word, { filename: 'a.md', file_data: `data:text/markdown;base64,${base64('# Title\n\ntext')}` });
    const [{ content }] = (await seenOnce(word)).input;
    assert.equal(content[0].text, word);
    assert.equal(fileText(content[1], 'a.md'), '# Title\n\ntext');
  });

  test(`${api}: what has no text is refused by name`, async () => {
    const word = mark();
    const file = { filename: 'a.docx', file_data: base64('PK\x03\x04') };
    await assert.rejects(send(word, file), { status: 400, code: 'unsupported_file', type: 'invalid_request_error' });
    await assert.rejects(send(word, { file_id: 'file-1' }), { status: 400, code: 'unsupported_value' });
    assert.deepEqual(await seen(word), []);
  });
}

test('the tier that was sent is shown', async () => {
  const word = mark();
  const response = await client.responses.create({ model, input: word, service_tier: 'flex' });
  assert.equal(response.service_tier, 'flex');
  const messages = [{ role: 'user', content: word }];
  const completion = await client.chat.completions.create({ model, messages, service_tier: 'priority' });
  assert.equal(completion.service_tier, 'priority');
  assert.deepEqual((await seen(word)).map((body) => body.service_tier), ['flex', 'priority']);
});
