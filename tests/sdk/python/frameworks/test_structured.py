"""Answers of a given form through every framework, with tools before them and without."""

import asyncio

import pydantic_ai
import pytest
from loops import LOOPS, LangChain, PydanticAi, async_client
from pydantic import BaseModel
from support import held_turns, native_loop, seen_once, wait_until_idle


class Report(BaseModel):
    city: str
    degrees: int
    sunny: bool


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"In {city} it has 21 degrees"


def test_a_typed_answer(loop, model, mark):
    report = loop.run(model, f"It has 17 degrees in Lisbon, {mark}", [], Report)
    assert (report.city, report.degrees) == ("Lisbon", 17)
    asked = seen_once(mark)["text"]["format"]
    assert asked["type"] == "json_schema" and asked["strict"] is True
    assert set(asked["schema"]["properties"]) == {"city", "degrees", "sunny"}


def test_a_typed_answer_after_a_tool(loop, model, mark):
    report = loop.run(model, f'{mark} CALLTOOL get_weather {{"city": "Paris"}}', [get_weather], Report)
    assert isinstance(report, Report) and report.degrees == 21
    native_loop(mark, 1)


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_langchain_by_function_calling(model, mark, api):
    chat = LangChain(api, stream=False).chat(model).with_structured_output(Report, method="function_calling")
    held = held_turns()
    report = chat.invoke(f'{mark} CALLTOOL Report {{"city": "Rome", "degrees": 30, "sunny": true}}')
    assert report == Report(city="Rome", degrees=30, sunny=True)
    wait_until_idle()
    # The call is the answer: nobody will bring an output, and the turn waits for one as long as it may.
    assert held_turns() == held + 1


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_langchain_by_json_mode(model, mark, api):
    chat = LangChain(api, stream=False).chat(model).with_structured_output(Report, method="json_mode")
    report = chat.invoke(f'{mark} give JSON {{"city": "Oslo", "degrees": 3, "sunny": false}}')
    assert report == Report(city="Oslo", degrees=3, sunny=False)


@pytest.mark.parametrize("api", ["responses", "chat"])
def test_pydantic_ai_by_an_output_tool(model, mark, api):
    """Its default: the last call is the answer, and every answer must be a call."""

    def get_weather(city: str) -> str:
        """The weather in a city."""
        return f'CALLTOOL final_result {{"city": "{city}", "degrees": 9, "sunny": false}}'

    text = f'{mark} CALLTOOL get_weather {{"city": "Turin"}}'
    report = PydanticAi(api, stream=False).run(model, text, [get_weather], pydantic_ai.ToolOutput(Report))
    assert report == Report(city="Turin", degrees=9, sunny=False)
    wait_until_idle()
