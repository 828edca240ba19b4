"""Loops that send only what is new: each framework's own way of `previous_response_id`."""

import asyncio

import agents
import pydantic_ai
from agents import OpenAIResponsesModel
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool
from loops import LangChain, async_client
from pydantic_ai.models.openai import OpenAIResponsesModel as PydanticResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from support import native_loop


def step(n: int) -> str:
    """One step of three; the model is told to take the next."""
    return f'CALLTOOL step {{"n": {n + 1}}}' if n < 3 else "all done"


def text(mark):
    return f'{mark} THINK "which tool" CALLTOOL step {{"n": 1}}'


def test_agents(model, mark):
    async def go():
        async with async_client() as client:
            agent = agents.Agent(
                name="tester",
                model=OpenAIResponsesModel(model, openai_client=client),
                tools=[agents.function_tool(step)],
            )
            result = await agents.Runner.run(agent, text(mark), auto_previous_response_id=True)
            again = await agents.Runner.run(agent, "RECALL", previous_response_id=result.last_response_id)
            return result.final_output, again.final_output

    said, recalled = asyncio.run(go())
    assert said.endswith("all done") and recalled == f"you said: {text(mark)}"
    native_loop(mark, 3, further=1)


def test_langchain(model, mark):
    chat = LangChain("responses", stream=False).chat(model, use_previous_response_id=True)
    tool = StructuredTool.from_function(step)
    bound = chat.bind_tools([tool])
    messages = [HumanMessage(text(mark))]
    messages.append(bound.invoke(messages))
    for _ in range(3):
        for call in messages[-1].tool_calls:
            messages.append(ToolMessage(tool.invoke(call["args"]), tool_call_id=call["id"]))
        messages.append(bound.invoke(messages))
    assert messages[-1].text.endswith("all done")
    native_loop(mark, 3)


def test_pydantic_ai(model, mark):
    async def go():
        async with async_client() as client:
            agent = pydantic_ai.Agent(
                PydanticResponsesModel(model, provider=OpenAIProvider(openai_client=client)),
                tools=[step],
                model_settings={"openai_previous_response_id": "auto"},
            )
            result = await agent.run(text(mark))
            again = await agent.run("RECALL", message_history=result.all_messages())
            return result.output, again.output

    said, recalled = asyncio.run(go())
    assert said.endswith("all done") and recalled == f"you said: {text(mark)}"
    native_loop(mark, 3, further=1)
