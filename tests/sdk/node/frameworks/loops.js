// One way to run a tool loop for each framework, API and delivery, so that all are asked the same.
//
// A tool is `{ name, description, parameters, execute }` with a zod schema. `run` gives the answer: its text, or
// the object that `output`, a zod schema, describes.

import { client, load } from '../support.js';

const agents = load('@openai/agents');
const ai = load('ai');
const { createOpenAI } = load('@ai-sdk/openai');

// Without it a run's trace goes to OpenAI's own service.
agents.setTracingDisabled(true);

const provider = createOpenAI({ baseURL: client.baseURL, apiKey: client.apiKey });

// `openai` are the provider's own options.
export function vercel(api, stream, openai) {
  return async (model, prompt, tools, output) => {
    const asked = {
      model: provider[api](model),
      prompt,
      // Without retries: a test wants the first answer.
      maxRetries: 0,
      stopWhen: ai.stepCountIs(10),
      tools: Object.fromEntries(
        tools.map(({ name, parameters, ...rest }) => [name, ai.tool({ ...rest, inputSchema: parameters })]),
      ),
      ...(output && { output: ai.Output.object({ schema: output }) }),
      ...(openai && { providerOptions: { openai } }),
    };
    if (!stream) {
      const result = await ai.generateText(asked);
      return output ? result.output : result.text;
    }
    let failure;
    const result = ai.streamText({ ...asked, onError: ({ error }) => (failure = error) });
    await result.consumeStream();
    if (failure) throw failure;
    return output ? await result.output : await result.text;
  };
}

function openaiAgents(api, stream) {
  const Model = api === 'responses' ? agents.OpenAIResponsesModel : agents.OpenAIChatCompletionsModel;
  return async (model, input, tools, output) => {
    const agent = new agents.Agent({
      name: 'tester',
      instructions: 'Be brief.',
      model: new Model(client, model),
      tools: tools.map((tool) => agents.tool(tool)),
      ...(output && { outputType: output }),
    });
    const result = await agents.run(agent, input, { stream });
    if (stream) {
      for await (const _ of result);
      await result.completed;
    }
    return result.finalOutput;
  };
}

export const loops = Object.fromEntries(
  ['responses', 'chat'].flatMap((api) =>
    [false, true].flatMap((stream) => {
      const kind = `${api}, ${stream ? 'streamed' : 'whole'}`;
      return [
        [`Agents SDK, ${kind}`, openaiAgents(api, stream)],
        [`AI SDK, ${kind}`, vercel(api, stream)],
      ];
    }),
  ),
);

// The AI SDK refers to stored reasoning by its id; without a store it sends it back whole.
loops['AI SDK, responses, whole, not stored'] = vercel('responses', false, {
  store: false,
  include: ['reasoning.encrypted_content'],
});
