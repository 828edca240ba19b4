"""Namespaces, custom tools and the web search, through the SDK's own types, and what the model saw of them."""

import json

import openai
import pytest
from support import offered, seen, wait_until_idle

HOSTED = "gpt-5.5"  # has the backend's own web search

CRM = {
    "type": "namespace",
    "name": "crm",
    "description": "Customers.",
    "tools": [
        {
            "type": "function",
            "name": "find_customer",
            "description": "Finds one.",
            "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
            "strict": False,
        }
    ],
}
NOTE = {"type": "custom", "name": "note", "description": "Writes it down."}
YEAR = {
    "type": "custom",
    "name": "year",
    "format": {"type": "grammar", "syntax": "regex", "definition": r"\d{4}"},
}


def test_a_namespaced_call_keeps_its_namespace(client, model, mark):
    text = f'{mark} CALLTOOL crm.find_customer {{"name": "Ada"}}'
    first = client.responses.create(model=model, input=text, tools=[CRM, NOTE])
    (call,) = first.output
    assert (call.type, call.namespace, call.name) == ("function_call", "crm", "find_customer")
    assert first.tools[0].type == "namespace" and first.tools[0].tools[0].name == "find_customer"
    # The conversation sent whole: the same turn goes on.
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "found"}
    history = [{"role": "user", "content": text}, call.to_dict(), output]
    second = client.responses.create(model=model, input=history, tools=[CRM, NOTE])
    assert second.output_text == "tool said: found"
    one, two = seen(mark)
    assert two["prompt_cache_key"] == one["prompt_cache_key"]
    native = [item for item in two["input"] if item["type"] == "function_call"]
    assert [(item["namespace"], item["name"]) for item in native] == [("crm", "find_customer")]
    wait_until_idle()


def test_a_custom_tool_streams_its_input(client, model, mark):
    text = f"{mark} CALLTOOL note {json.dumps({'input': 'a b' + chr(10)})}"
    with client.responses.stream(model=model, input=text, tools=[NOTE]) as stream:
        events = list(stream)
        final = stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.custom_tool_call_input.delta"]
    (done,) = [event for event in events if event.type == "response.custom_tool_call_input.done"]
    (call,) = final.output
    assert "".join(deltas) == done.input == call.input == "a b\n"
    assert (call.type, call.name) == ("custom_tool_call", "note")
    second = client.responses.create(
        model=model,
        input=[{"type": "custom_tool_call_output", "call_id": call.call_id, "output": "noted"}],
        previous_response_id=final.id,
        tools=[NOTE],
    )
    assert second.output_text == "tool said: noted"
    (tool,) = offered(seen(mark)[0])
    assert tool["name"] == "note" and list(tool["parameters"]["properties"]) == ["input"]
    wait_until_idle()


def test_a_custom_tool_over_chat(client, model, mark):
    tools = [{"type": "custom", "custom": {"name": "note"}}]
    user = {"role": "user", "content": f'{mark} CALLTOOL note {{"input": "x"}}'}
    first = client.chat.completions.create(model=model, messages=[user], tools=tools)
    message = first.choices[0].message
    (call,) = message.tool_calls
    assert (call.type, call.custom.name, call.custom.input) == ("custom", "note", "x")
    output = {"role": "tool", "tool_call_id": call.id, "content": "noted"}
    second = client.chat.completions.create(model=model, messages=[user, message, output], tools=tools)
    assert second.choices[0].message.content == "tool said: noted"
    one, two = seen(mark)
    assert one["prompt_cache_key"] == two["prompt_cache_key"]
    wait_until_idle()


def test_a_grammar_is_kept_or_refused(client, model, mark):
    fits = client.responses.create(model=model, input=f'{mark} CALLTOOL year {{"input": "2026"}}', tools=[YEAR])
    assert fits.output[0].input == "2026"
    with pytest.raises(openai.InternalServerError) as caught:
        client.responses.create(model=model, input='CALLTOOL year {"input": "soon"}', tools=[YEAR])
    assert caught.value.code == "invalid_tool_input"
    lark = {"type": "custom", "name": "c", "format": {"type": "grammar", "syntax": "lark", "definition": "start: A"}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=model, input="hi", tools=[lark])
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools[0].format.syntax")


def test_a_web_search_and_its_citation(client, mark):
    tool = {"type": "web_search", "filters": {"allowed_domains": ["example.com"]}, "search_context_size": "low"}
    answer = client.responses.create(model=HOSTED, input=f'{mark} SEARCH "red cats"', tools=[tool])
    search, message = answer.output
    assert (search.type, search.status, search.action.query) == ("web_search_call", "completed", "red cats")
    (cited,) = message.content[0].annotations
    assert message.content[0].text[cited.start_index : cited.end_index] == "(example.com)"
    (upstream,) = seen(mark)[0]["tools"]
    assert upstream["filters"] == tool["filters"] and upstream["search_context_size"] == "low"
    chat = client.chat.completions.create(
        model=HOSTED,
        messages=[{"role": "user", "content": f'{mark} SEARCH "red cats"'}],
        web_search_options={"search_context_size": "high"},
    )
    assert chat.choices[0].message.annotations[0].url_citation.url == "https://example.com/found"
