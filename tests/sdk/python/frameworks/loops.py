"""One way to run a tool loop for each framework, API and delivery, so that all are asked the same.

A tool is a plain function: its name and its docstring are the tool's, its annotations the schema.
"""

import asyncio
import os

import agents
import openai
import pydantic_ai
from agents import OpenAIChatCompletionsModel, OpenAIResponsesModel
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel as PydanticResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from support import API_KEY, BASE_URL

# Else a run's trace goes to OpenAI's own service, or to LangSmith where the developer's environment has it on.
agents.set_tracing_disabled(True)
os.environ["LANGSMITH_TRACING"] = os.environ["LANGCHAIN_TRACING_V2"] = "false"


def async_client():
    # Without retries: a test wants the first answer.
    return openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0, timeout=60)


def is_model(output):
    return isinstance(output, type) and issubclass(output, BaseModel)


class Agents:
    """The OpenAI Agents SDK."""

    def __init__(self, api, stream):
        self.model_class = {"responses": OpenAIResponsesModel, "chat": OpenAIChatCompletionsModel}[api]
        self.stream = stream

    def run(self, model, text, tools, output=None):
        wrapped = [
            agents.function_tool(tool, name_override=tool.__name__, description_override=tool.__doc__)
            for tool in tools
        ]

        async def go():
            async with async_client() as client:
                agent = agents.Agent(
                    name="tester",
                    instructions="Be brief.",
                    model=self.model_class(model, openai_client=client),
                    tools=wrapped,
                    output_type=output,
                )
                if not self.stream:
                    return (await agents.Runner.run(agent, text)).final_output
                result = agents.Runner.run_streamed(agent, text)
                async for _ in result.stream_events():
                    pass
                return result.final_output

        return asyncio.run(go())


class LangChain:
    """`langchain-openai`, the loop by hand."""

    def __init__(self, api, stream):
        self.api, self.stream = api, stream

    def chat(self, model, **options):
        return ChatOpenAI(
            model=model, base_url=BASE_URL, api_key=API_KEY, max_retries=0, timeout=60,
            use_responses_api=self.api == "responses", **options,
        )

    def ask(self, chat, messages):
        if not self.stream:
            return chat.invoke(messages)
        first, *rest = chat.stream(messages)
        for chunk in rest:
            first += chunk
        return first

    def run(self, model, text, tools, output=None):
        wrapped = {tool.__name__: StructuredTool.from_function(tool, description=tool.__doc__) for tool in tools}
        chat = self.chat(model).bind_tools(
            list(wrapped.values()), **({"response_format": output, "strict": True} if output else {})
        )
        messages = [HumanMessage(text)]
        for _ in range(10):
            answer = self.ask(chat, messages)
            messages.append(answer)
            if not answer.tool_calls:
                return answer.additional_kwargs["parsed"] if output else answer.text
            for call in answer.tool_calls:
                messages.append(ToolMessage(wrapped[call["name"]].invoke(call["args"]), tool_call_id=call["id"]))
        raise AssertionError("the loop does not end")


class PydanticAi:
    """pydantic-ai."""

    def __init__(self, api, stream):
        self.model_class = {"responses": PydanticResponsesModel, "chat": OpenAIChatModel}[api]
        self.stream = stream

    def run(self, model, text, tools, output=str):
        async def go():
            async with async_client() as client:
                agent = pydantic_ai.Agent(
                    self.model_class(model, provider=OpenAIProvider(openai_client=client)),
                    instructions="Be brief.",
                    tools=[pydantic_ai.Tool(tool, name=tool.__name__, description=tool.__doc__) for tool in tools],
                    # Of the ways it has, the one that the API itself offers.
                    output_type=pydantic_ai.NativeOutput(output) if is_model(output) else output,
                )
                if not self.stream:
                    return (await agent.run(text)).output
                async with agent.run_stream(text) as result:
                    return await result.get_output()

        return asyncio.run(go())


LOOPS = {
    f"{framework.__name__}-{api}-{'streamed' if stream else 'whole'}": framework(api, stream)
    for framework in (Agents, LangChain, PydanticAi)
    for api in ("responses", "chat")
    for stream in (False, True)
}
