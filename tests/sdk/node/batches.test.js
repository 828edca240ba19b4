// Files and batches: uploaded, run to the end, read, refused.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { client, load, mark, model, OpenAI, until } from './support.js';

const { toFile } = load('openai');

const row = (customId, body) => ({ custom_id: customId, method: 'POST', url: '/v1/responses', body });

async function upload(rows) {
  const content = rows.map((line) => `${JSON.stringify(line)}\n`).join('');
  return client.files.create({ file: await toFile(Buffer.from(content), 'rows.jsonl'), purpose: 'batch' });
}

async function ended(batch) {
  let now = batch;
  await until('the batch has ended', async () => {
    now = await client.batches.retrieve(batch.id);
    return ['completed', 'failed', 'expired', 'cancelled'].includes(now.status);
  });
  return now;
}

async function results(id) {
  const lines = (await (await client.files.content(id)).text()).trim().split('\n').map((line) => JSON.parse(line));
  const byId = new Map(lines.map((line) => [line.custom_id, line]));
  assert.equal(byId.size, lines.length);
  return byId;
}

test('a batch is run to its end', async () => {
  const word = mark();
  const rows = [0, 1, 2].map((n) => row(`row-${n}`, { model, input: `SAY ${word}-${n}` }));
  const file = await upload([...rows, row('bad', { model: 'none', input: 'x' })]);
  const batch = await client.batches.create({
    input_file_id: file.id,
    endpoint: '/v1/responses',
    completion_window: '24h',
  });
  const done = await ended(batch);
  assert.deepEqual([done.status, done.request_counts], ['completed', { total: 4, completed: 3, failed: 1 }]);
  const good = await results(done.output_file_id);
  for (const n of [0, 1, 2]) {
    assert.equal(good.get(`row-${n}`).response.body.output.at(-1).content[0].text, `${word}-${n}`);
  }
  const bad = (await results(done.error_file_id)).get('bad');
  assert.equal(bad.response.body.error.code, 'model_not_found');
  const listed = [];
  for await (const one of client.batches.list({ limit: 1 })) {
    listed.push(one.id);
    if (one.id === batch.id) break;
  }
  assert.ok(listed.includes(batch.id));
  await assert.rejects(client.batches.cancel(batch.id), OpenAI.ConflictError);
});

test('files are listed page by page and deleted', async () => {
  const files = [await upload([row('a', {})]), await upload([row('b', {})])];
  const listed = [];
  for await (const file of client.files.list({ limit: 1, purpose: 'batch' })) listed.push(file.id);
  assert.ok(listed.indexOf(files[1].id) < listed.indexOf(files[0].id));
  for (const file of files) {
    assert.equal((await client.files.delete(file.id)).deleted, true);
    await assert.rejects(client.files.content(file.id), OpenAI.NotFoundError);
  }
  const refused = client.files.create({ file: await toFile(Buffer.from('{}'), 'x'), purpose: 'fine-tune' });
  await assert.rejects(refused, (error) => error.param === 'purpose' && error.code === 'unsupported_value');
});
