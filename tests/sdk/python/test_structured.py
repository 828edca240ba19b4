"""Answers of a given form: enforced by the backend, or checked by the bridge itself."""

import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, ValidationError
from support import native_loop, said, seen, seen_once, wait_until_idle

# Not strict: no `additionalProperties`, and not everything is required.
LOOSE = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]}


class Step(BaseModel):
    explanation: str
    output: str | None


class Solution(BaseModel):
    kind: Literal["short", "long"]
    steps: list[Step]
    score: float


def test_responses_parse(client, model, mark):
    response = client.responses.parse(model=model, input=f"solve {mark}", text_format=Solution)
    assert isinstance(response.output_parsed, Solution)
    body = seen_once(mark)
    assert body["text"]["format"]["type"] == "json_schema" and body["text"]["format"]["strict"] is True
    assert list(body["text"]["format"]["schema"]["properties"]) == ["kind", "steps", "score"]
    assert response.text.format.name == "Solution" and response.text.format.strict is True
    assert said(body) == [f"user: solve {mark}"]


def test_responses_stream_parse(client, model, mark):
    with client.responses.stream(model=model, input=f"solve {mark}", text_format=Solution) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.output_parsed == Solution.model_validate_json(text)


def test_chat_parse(client, model, mark):
    messages = [{"role": "user", "content": f"solve {mark}"}]
    completion = client.chat.completions.parse(model=model, messages=messages, response_format=Solution)
    assert isinstance(completion.choices[0].message.parsed, Solution)
    assert seen_once(mark)["text"]["format"]["strict"] is True


def test_chat_stream_parse(client, model, mark):
    messages = [{"role": "user", "content": f"solve {mark}"}]
    with client.chat.completions.stream(model=model, messages=messages, response_format=Solution) as stream:
        for _ in stream:
            pass
        completion = stream.get_final_completion()
    assert isinstance(completion.choices[0].message.parsed, Solution)


class Weather(BaseModel):
    city: str


@pytest.mark.parametrize("stream", [False, True])
def test_responses_parse_at_the_end_of_a_tool_loop(client, model, mark, stream):
    def ask(**fields):
        fields |= {"model": model, "tools": [openai.pydantic_function_tool(Weather)["function"] | {"type": "function"}]}
        if not stream:
            return client.responses.parse(text_format=Solution, **fields)
        with client.responses.stream(text_format=Solution, **fields) as events:
            for _ in events:
                pass
            return events.get_final_response()

    first = ask(input=f'{mark} CALLTOOL Weather {{"city": "Paris"}}')
    (call,) = first.output
    assert first.output_parsed is None
    answered = {"type": "function_call_output", "call_id": call.call_id, "output": "a long answer, 7"}
    solution = ask(input=[answered], previous_response_id=first.id).output_parsed
    assert isinstance(solution, Solution) and (solution.kind, solution.score) == ("long", 7)
    native_loop(mark, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_chat_parse_at_the_end_of_a_tool_loop(client, model, mark, stream):
    def ask(messages):
        fields = {"model": model, "messages": messages, "tools": [openai.pydantic_function_tool(Weather)]}
        if not stream:
            return client.chat.completions.parse(response_format=Solution, **fields).choices[0].message
        with client.chat.completions.stream(response_format=Solution, **fields) as events:
            for _ in events:
                pass
            return events.get_final_completion().choices[0].message

    messages = [{"role": "user", "content": f'{mark} CALLTOOL Weather {{"city": "Paris"}}'}]
    first = ask(messages)
    assert first.tool_calls[0].function.parsed_arguments == Weather(city="Paris") and first.parsed is None
    messages.append(first.to_dict())
    messages.append({"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "a short answer, 3"})
    solution = ask(messages).parsed
    assert isinstance(solution, Solution) and (solution.kind, solution.score) == ("short", 3)
    native_loop(mark, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_cut_is_not_parsed(client, model, mark, stream):
    """As the SDK has it for the service itself: an error of its own in one API, what pydantic says in the other."""
    messages = [{"role": "user", "content": f"solve {mark}"}]
    chat = {"model": model, "messages": messages, "response_format": Solution, "max_completion_tokens": 4}
    with pytest.raises(openai.LengthFinishReasonError) as cut:
        if stream:
            with client.chat.completions.stream(**chat) as events:
                for _ in events:
                    pass
                events.get_final_completion()
        else:
            client.chat.completions.parse(**chat)
    assert cut.value.completion.choices[0].finish_reason == "length"
    long = Solution(kind="long", steps=[{"explanation": "word " * 40, "output": None}], score=1)
    responses = {"model": model, "input": f"{mark} JSON {long.model_dump_json()}", "text_format": Solution}
    with pytest.raises(ValidationError):
        if stream:
            with client.responses.stream(max_output_tokens=16, **responses) as events:
                for _ in events:
                    pass
                events.get_final_response()
        else:
            client.responses.parse(max_output_tokens=16, **responses)
    wait_until_idle()


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_json_object_in_a_tool_loop(client, model, mark, api, stream):
    answer = {"sunny": True, "mark": mark}
    text = f'{mark} CALLTOOL Weather {{"city": "Paris"}}'
    said = f"give JSON {json.dumps(answer)}"
    tool = openai.pydantic_function_tool(Weather)
    if api == "chat":
        messages = [{"role": "user", "content": text}]
        fields = {"model": model, "tools": [tool], "response_format": {"type": "json_object"}}
        call = client.chat.completions.create(messages=messages, **fields).choices[0].message.tool_calls[0]
        messages += [
            {"role": "assistant", "tool_calls": [call.to_dict()]},
            {"role": "tool", "tool_call_id": call.id, "content": said},
        ]
        result = client.chat.completions.create(messages=messages, stream=stream, **fields)
        if stream:
            content = "".join(chunk.choices[0].delta.content or "" for chunk in result if chunk.choices)
        else:
            content = result.choices[0].message.content
    else:
        fields = {"model": model, "tools": [tool["function"] | {"type": "function"}]}
        fields["text"] = {"format": {"type": "json_object"}}
        first = client.responses.create(input=text, **fields)
        answered = {"type": "function_call_output", "call_id": first.output[0].call_id, "output": said}
        result = client.responses.create(
            input=[answered], previous_response_id=first.id, stream=stream, **fields
        )
        content = list(result)[-1].response.output_text if stream else result.output_text
    assert json.loads(content) == answer
    native_loop(mark, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_json_object_is_asked_for_and_checked(client, model, mark, stream):
    answer = {"a": [1, 2], "mark": mark}
    messages = [{"role": "user", "content": f"give JSON {json.dumps(answer)}"}]
    result = client.chat.completions.create(
        model=model, messages=messages, response_format={"type": "json_object"}, stream=stream
    )
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in result if chunk.choices)
    else:
        text = result.choices[0].message.content
    assert json.loads(text) == answer
    lines = said(seen_once(mark))
    assert lines[0].startswith("developer: ") and "JSON object" in lines[0] and len(lines) == 2


def test_a_loose_schema_is_checked_here(client, model, mark):
    format = {"type": "json_schema", "name": "loose", "description": "a thing", "schema": LOOSE, "strict": False}
    response = client.responses.create(
        model=model, input=f'{mark} JSON {{"a": 1}}', text={"format": format}, instructions="be brief"
    )
    assert json.loads(response.output_text) == {"a": 1}
    assert response.text.format.to_dict() == format
    assert response.instructions == "be brief"
    instructions = said(seen_once(mark))[0]
    assert instructions.startswith("developer: be brief\n\n") and "a thing" in instructions
    # It was for that call alone.
    client.responses.create(model=model, input=f"{mark} SAY ok", previous_response_id=response.id)
    assert [line for line in said(seen(mark)[-1]) if line.startswith("developer")] == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_stays_wrong_is_an_error_after_one_repair(client, model, mark, stream):
    format = {"type": "json_schema", "name": "loose", "schema": LOOSE, "strict": False}
    with pytest.raises(openai.APIError) as failed:
        result = client.responses.create(
            model=model, input=f'{mark} JSON {{"a": "x"}}', text={"format": format}, stream=stream
        )
        if stream:
            for _ in result:
                pass
    assert failed.value.code == "invalid_structured_output"
    first, second = seen(mark)
    assert said(second)[: len(said(first)) + 1] == [*said(first), 'assistant: {"a": "x"}']
    assert "at '/a'" in said(second)[-1]


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (LOOSE, "context=()"),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "array", "items": {"type": "object"}}},
                "required": ["a"],
                "additionalProperties": False,
            },
            "context=('properties', 'a', 'items')",
        ),
    ],
)
def test_a_schema_that_strict_mode_refuses(client, model, schema, place):
    format = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=model, input="hi", text={"format": format})
    assert refused.value.param == "text.format.schema" and place in refused.value.message
    nested = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    with pytest.raises(openai.BadRequestError) as refused:
        messages = [{"role": "user", "content": "hi"}]
        client.chat.completions.create(model=model, messages=messages, response_format=nested)
    assert refused.value.param == "response_format.json_schema.schema" and place in refused.value.message
