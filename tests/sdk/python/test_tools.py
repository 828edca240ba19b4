"""Function tools: calls out, outputs in, in both APIs, and what the model saw of them."""

import json

import openai
import pytest
from support import STANDIN_URL, data_url, native_loop, offered, png, said, seen, wait_until_idle

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather somewhere.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
TIME = {"type": "function", "name": "get_time", "parameters": {"type": "object", "properties": {}}}


def nested(tool):
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def calls_of(response):
    return [item for item in response.output if item.type == "function_call"]


def output(call, text="sunny"):
    return {"type": "function_call_output", "call_id": call.call_id, "output": text}


def call_text(mark, *calls):
    return f"{mark} " + " ".join(f"CALLTOOL {name} {json.dumps(arguments)}" for name, arguments in calls)


def test_a_call_and_its_output_by_previous_response_id(client, model, mark):
    text = call_text(mark, ("get_weather", {"city": "Paris"}))
    first = client.responses.create(model=model, input=text, tools=[WEATHER])
    assert first.status == "completed"
    (call,) = calls_of(first)
    assert (call.name, json.loads(call.arguments), call.status) == ("get_weather", {"city": "Paris"}, "completed")
    assert first.tools[0].name == "get_weather" and first.tool_choice == "auto" and first.parallel_tool_calls
    second = client.responses.create(
        model=model, input=[output(call)], previous_response_id=first.id, tools=[WEATHER]
    )
    assert second.output_text == "tool said: sunny"
    one, two = seen(mark)
    assert [tool["name"] for tool in offered(one)] == ["get_weather"]
    assert offered(one) == offered(two)
    assert two["input"][: len(one["input"])] == one["input"]
    assert said(two)[-2:] == ["function_call", "function_call_output"]
    assert two["input"][-1]["call_id"] == call.call_id
    wait_until_idle()


def test_a_stream_of_calls_has_the_official_events(client, model, mark):
    text = call_text(mark, ("get_weather", {"city": "Oslo"}), ("get_time", {}))
    events = list(client.responses.create(model=model, input=text, tools=[WEATHER, TIME], stream=True))
    kinds = [event.type for event in events if not event.type.endswith("arguments.delta")]
    assert kinds == [
        "response.created",
        "response.in_progress",
        *[
            "response.output_item.added",
            "response.function_call_arguments.done",
            "response.output_item.done",
        ]
        * 2,
        "response.completed",
    ]
    deltas = {}
    for event in events:
        if event.type == "response.function_call_arguments.delta":
            deltas[event.output_index] = deltas.get(event.output_index, "") + event.delta
    final = events[-1].response
    assert [call.name for call in calls_of(final)] == ["get_weather", "get_time"]
    assert [json.loads(text) for text in deltas.values()] == [{"city": "Oslo"}, {}]
    with client.responses.stream(
        model=model,
        input=[output(call, call.name) for call in calls_of(final)],
        previous_response_id=final.id,
        tools=[WEATHER, TIME],
    ) as stream:
        assert stream.get_final_response().output_text == "tool said: get_weather, get_time"
    wait_until_idle()


STEP = {"type": "function", "name": "step", "parameters": {"type": "object", "properties": {"n": {"type": "number"}}}}


def step(call):
    """Its output asks for the next step, up to the third."""
    n = json.loads(call.arguments)["n"]
    return output(call, f'CALLTOOL step {{"n": {n + 1}}}' if n < 3 else "all done")


@pytest.mark.parametrize("stored", [True, False])
def test_three_rounds_in_one_turn(client, model, mark, stored):
    text = f'{mark} THINK "step by step" CALLTOOL step {{"n": 1}}'
    response = client.responses.create(model=model, input=text, tools=[STEP], store=stored)
    items = [{"role": "user", "content": text}]
    while calls := calls_of(response):
        outputs = [step(call) for call in calls]
        items += [item.to_dict() for item in response.output] + outputs
        if stored:
            again = {"input": outputs, "previous_response_id": response.id}
        else:
            again = {"input": items}
        response = client.responses.create(model=model, tools=[STEP], store=stored, **again)
    assert response.output_text.endswith("all done")
    assert [item["type"] for item in native_loop(mark, 3)[-1]["input"]].count("reasoning") == 3


def test_items_may_be_given_by_reference(client, model, mark):
    text = f'{mark} THINK "hm" CALLTOOL step {{"n": 3}}'
    first = client.responses.create(model=model, input=text, tools=[STEP])
    items = [{"role": "user", "content": text}]
    items += [{"type": "item_reference", "id": item.id} for item in first.output]
    items += [step(call) for call in calls_of(first)]
    second = client.responses.create(model=model, input=items, tools=[STEP])
    assert second.output_text == "tool said: all done"
    bodies = native_loop(mark, 1)
    (thought,) = [item for item in bodies[-1]["input"] if item["type"] == "reasoning"]
    assert thought["encrypted_content"]
    # Another conversation may refer to them too.
    items.append({"role": "user", "content": "SAY bye"})
    assert client.responses.create(model=model, input=items).output_text == "bye"
    assert [item for item in seen(mark)[-1]["input"] if item["type"] == "reasoning"][0]["encrypted_content"]


def test_three_rounds_with_the_history_sent_along(client, model, mark):
    items = [{"role": "user", "content": f"start {mark}"}]
    for n in range(3):
        items.append({"role": "user", "content": call_text(mark, ("get_weather", {"city": f"c{n}"}))})
        response = client.responses.create(model=model, input=items, tools=[WEATHER], store=False)
        (call,) = calls_of(response)
        items += [item.to_dict(exclude_none=True) for item in response.output]
        items.append(output(call, f"o{n}"))
        response = client.responses.create(model=model, input=items, tools=[WEATHER], store=False)
        assert response.output_text == f"tool said: o{n}"
        items += [item.to_dict(exclude_none=True) for item in response.output]
    wait_until_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_chat_tool_loop(client, model, mark, stream):
    messages = [{"role": "user", "content": call_text(mark, ("get_weather", {"city": "Bonn"}), ("get_time", {}))}]
    tools = [nested(WEATHER), nested(TIME)]
    if stream:
        with client.chat.completions.stream(model=model, messages=messages, tools=tools) as events:
            for _ in events:
                pass
            completion = events.get_final_completion()
    else:
        completion = client.chat.completions.create(model=model, messages=messages, tools=tools)
    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls" and not choice.message.content
    calls = choice.message.tool_calls
    assert [(call.type, call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("function", "get_weather", {"city": "Bonn"}),
        ("function", "get_time", {}),
    ]
    messages.append({"role": "assistant", "content": None, "tool_calls": [
        {"id": call.id, "type": "function", "function": {
            "name": call.function.name, "arguments": call.function.arguments}} for call in calls]})
    for call in calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": call.function.name})
    completion = client.chat.completions.create(model=model, messages=messages, tools=tools)
    assert completion.choices[0].message.content == "tool said: get_weather, get_time"
    assert completion.choices[0].finish_reason == "stop"
    wait_until_idle()


def test_chunks_of_a_call_have_its_head_once(client, model, mark):
    messages = [{"role": "user", "content": call_text(mark, ("get_weather", {"city": "Rome"}), ("get_time", {}))}]
    chunks = list(
        client.chat.completions.create(
            model=model, messages=messages, tools=[nested(WEATHER), nested(TIME)], stream=True
        )
    )
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    for index, name in enumerate(["get_weather", "get_time"]):
        head, *rest = [call for call in calls if call.index == index]
        assert head.id and head.function.name == name and head.type == "function"
        assert all(call.id is None and call.function.name is None for call in rest)
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert [reason for reason in reasons if reason] == ["tool_calls"]
    wait_until_idle()


def test_deprecated_functions(client, model, mark):
    messages = [{"role": "user", "content": call_text(mark, ("get_time", {}))}]
    functions = [nested(TIME)["function"]]
    completion = client.chat.completions.create(model=model, messages=messages, functions=functions)
    choice = completion.choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.function_call.name == "get_time" and choice.message.tool_calls is None
    messages += [
        {"role": "assistant", "content": None, "function_call": {"name": "get_time", "arguments": "{}"}},
        {"role": "function", "name": "get_time", "content": "noon"},
    ]
    completion = client.chat.completions.create(model=model, messages=messages, functions=functions)
    assert completion.choices[0].message.content == "tool said: noon"
    wait_until_idle()


@pytest.mark.parametrize("name", ["exec_command", "view_image", "mcp__x", "web_search", "x" * 70, "x" * 100, "dotted.name", "naïve tool!"])
def test_any_name_comes_back_as_it_was(client, model, mark, name):
    tool = {**TIME, "name": name}
    # The model is told another name where Codex does not take this one, and calls it by that.
    probe = client.responses.create(model=model, input=f"SAY {mark}", tools=[tool])
    assert probe.output_text == mark
    (body,) = seen(mark)
    (upstream,) = [tool["name"] for tool in offered(body)]
    first = client.responses.create(model=model, input=f"{mark} CALLTOOL {upstream} {{}}", tools=[tool])
    (call,) = calls_of(first)
    assert call.name == name
    second = client.responses.create(
        model=model, input=[output(call, "done")], previous_response_id=first.id, tools=[tool]
    )
    assert second.output_text == "tool said: done"
    wait_until_idle()


def test_twenty_tools_in_their_order(client, model, mark):
    tools = [{**TIME, "name": f"tool_{n}"} for n in range(20)]
    client.responses.create(model=model, input=f"SAY {mark}", tools=tools)
    (body,) = seen(mark)
    assert sorted(tool["name"] for tool in offered(body)) == sorted(tool["name"] for tool in tools)


def test_tool_choice(client, model, mark):
    tools = [WEATHER, TIME]
    none = client.responses.create(model=model, input=f"SAY none {mark}", tools=tools, tool_choice="none")
    assert none.tool_choice == "none" and not calls_of(none)
    (body,) = seen(f"none {mark}")
    assert not offered(body)
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "get_time"}]}
    client.responses.create(model=model, input=f"SAY allowed {mark}", tools=tools, tool_choice=allowed)
    (body,) = seen(f"allowed {mark}")
    assert [tool["name"] for tool in offered(body)] == ["get_time"]
    forced = client.responses.create(
        model=model, input=call_text(mark, ("get_time", {})), tools=tools,
        tool_choice={"type": "function", "name": "get_time"},
    )
    (call,) = calls_of(forced)
    assert call.name == "get_time" and forced.tool_choice.name == "get_time"
    with pytest.raises(openai.APIError):
        client.responses.create(model=model, input=f"SAY no {mark}", tools=tools, tool_choice="required")


def test_one_call_at_a_time(client, model, mark):
    text = call_text(mark, ("get_weather", {"city": "Bern"}), ("get_time", {}))
    response = client.responses.create(model=model, input=text, tools=[WEATHER, TIME], parallel_tool_calls=False)
    (call,) = calls_of(response)
    assert call.name == "get_weather" and response.parallel_tool_calls is False
    second = client.responses.create(
        model=model, input=[output(call)], previous_response_id=response.id, tools=[WEATHER, TIME],
        parallel_tool_calls=False,
    )
    assert second.output_text == "tool said: sunny"
    wait_until_idle()


@pytest.mark.parametrize("stored", [True, False])
def test_outputs_may_have_images(client, model, mark, stored):
    text = call_text(mark, ("get_time", {}))
    first = client.responses.create(model=model, input=text, tools=[TIME], store=stored)
    (call,) = calls_of(first)
    picture = data_url(png(1, 2, 3))
    image = {"type": "input_image", "image_url": picture, "detail": "auto"}
    answered = output(call, [{"type": "input_text", "text": "look"}, image])
    if stored:
        again = {"input": [answered], "previous_response_id": first.id}
    else:
        again = {"input": [{"role": "user", "content": text}, call.to_dict(), answered]}
    second = client.responses.create(model=model, tools=[TIME], store=stored, **again)
    assert second.output_text.startswith("tool said: look")
    shown = native_loop(mark, 1)[-1]["input"][-1]["output"]
    assert [part["type"] for part in shown] == ["input_text", "input_image"]
    assert shown[1]["image_url"] == picture
    # Where the turn has ended, the conversation is rebuilt with the image in it.
    client.responses.create(model=model, input=f"SAY again {mark}", previous_response_id=second.id)
    outputs = [item["output"] for item in seen(f"again {mark}")[-1]["input"] if item["type"] == "function_call_output"]
    assert [part.get("image_url") for part in outputs[0]] == [None, picture]


def test_an_output_with_a_broken_image_is_refused_and_the_turn_waits_on(client, model, mark):
    first = client.responses.create(model=model, input=call_text(mark, ("get_time", {})), tools=[TIME])
    (call,) = calls_of(first)
    again = {"model": model, "previous_response_id": first.id, "tools": [TIME]}
    with pytest.raises(openai.BadRequestError) as refused:
        image = {"type": "input_image", "image_url": data_url(b"no image"), "detail": "auto"}
        client.responses.create(input=[output(call, [image])], **again)
    assert refused.value.param == "input[0].output[0].image_url"
    client.responses.create(input=[output(call, "noon")], **again)
    native_loop(mark, 1)


def test_a_missing_output_is_named_and_the_batch_stays(client, model, mark):
    text = call_text(mark, ("get_weather", {"city": "Bern"}), ("get_time", {}))
    first = client.responses.create(model=model, input=text, tools=[WEATHER, TIME])
    one, two = calls_of(first)
    again = {"model": model, "previous_response_id": first.id, "tools": [WEATHER, TIME]}
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(input=[output(one)], **again)
    assert f"No tool output found for function call {two.call_id}" in refused.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        unknown = {"type": "function_call_output", "call_id": "call_nobody", "output": "x"}
        client.responses.create(input=[output(one), output(two), unknown], **again)
    assert "No tool call found" in refused.value.message
    done = client.responses.create(input=[output(one, "a"), output(two, "b")], **again)
    assert done.output_text == "tool said: a, b"
    wait_until_idle()


def test_tools_that_are_not_served(client, model):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=model, input="hi", tools=[{"type": "file_search", "vector_store_ids": ["v"]}])
    assert (refused.value.code, refused.value.param) == ("unsupported_tool", "tools[0]")
    assert "'file_search'" in refused.value.message and "'web_search'" in refused.value.message


# Codex gives it to few models.
SEARCHES = "gpt-5.5"


def test_web_search_is_codexs_own(client, mark):
    model = SEARCHES
    response = client.responses.create(model=model, input=f"SAY {mark}", tools=[{"type": "web_search"}])
    assert response.tools[0].type == "web_search"
    (body,) = seen(mark)
    assert [tool["type"] for tool in offered(body)] == ["web_search"]
    completion = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": f"SAY chat {mark}"}], web_search_options={}
    )
    assert completion.choices[0].message.content == f"chat {mark}"
    (body,) = seen(f"chat {mark}")
    assert [tool["type"] for tool in offered(body)] == ["web_search"]
    lite = {"model": "gpt-6-luna", "input": f"SAY lite {mark}", "tools": [{"type": "web_search"}]}
    if STANDIN_URL.startswith("https:"):
        # Under a login Codex searches by itself.
        assert client.responses.create(**lite).output_text == f"lite {mark}"
        return
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**lite)
    assert (refused.value.code, refused.value.param) == ("unsupported_tool", "tools")
