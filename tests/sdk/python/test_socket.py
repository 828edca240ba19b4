"""The WebSocket of GET /v1/responses through `client.responses.connect()`: turns, lanes, warm-up, loss, mistakes."""

import json

import openai
import pytest
from websockets.exceptions import InvalidStatus

from support import said, seen, seen_once, wait_until_idle

TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


def events_of(connection, stream_id=None):
    """All events up to the one that ends a response."""
    events = []
    for event in connection:
        assert event.stream_id == stream_id, event
        events.append(event)
        if event.type in {"response.completed", "response.incomplete", "response.failed", "error"}:
            return events
    raise AssertionError(f"closed after {events}")


def answer(connection, **fields):
    connection.response.create(**fields)
    end = events_of(connection, fields.get("stream_id"))[-1]
    assert end.type == "response.completed", end
    return end.response


def refusal(connection, **fields):
    connection.response.create(**fields)
    event = events_of(connection)[-1]
    assert event.type == "error", event
    return event.status, event.error.code, event.error.param


def test_one_turn_after_the_other(client, model, mark):
    with client.responses.connect() as connection:
        connection.response.create(model=model, input=f"SAY {mark} one")
        events = events_of(connection)
        assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == events[-1].response.output_text == f"{mark} one"
        second = answer(connection, model=model, input="RECALL", previous_response_id=events[-1].response.id)
        assert second.output_text == f"you said: SAY {mark} one"
    assert said(seen(mark)[-1]) == [f"user: SAY {mark} one", f"assistant: {mark} one", "user: RECALL"]
    # What is stored is there over HTTP.
    assert client.responses.retrieve(second.id).output_text == second.output_text
    wait_until_idle()


def test_what_is_not_stored_goes_on_here_and_is_lost_with_the_socket(client, model, mark):
    with client.responses.connect() as connection:
        first = answer(connection, model=model, input=f"SAY {mark}", store=False)
        second = answer(connection, model=model, input="RECALL", store=False, previous_response_id=first.id)
        assert second.output_text == f"you said: SAY {mark}"
    with client.responses.connect() as connection:
        lost = refusal(connection, model=model, input="RECALL", store=False, previous_response_id=second.id)
        assert lost == (400, "previous_response_not_found", "previous_response_id")
        whole = [("user", f"SAY {mark}"), ("assistant", mark), ("user", "RECALL")]
        whole = [{"role": role, "content": content} for role, content in whole]
        again = answer(connection, model=model, store=False, input=whole)
        assert again.output_text == f"you said: SAY {mark}"


def test_lanes_run_side_by_side_and_fork(client, model, mark):
    with client.responses.connect() as connection:
        for lane in ("plan", "risk"):
            connection.response.create(model=model, input=f"{mark} {lane} SLOW 5 20", stream_id=lane, store=False)
        ends = {}
        for event in connection:
            if event.type == "response.completed":
                ends[event.stream_id] = event.response
            if len(ends) == 2:
                break
        assert {end.output_text for end in ends.values()} == {"w0 w1 w2 w3 w4"}
        parent = ends["plan"].id
        for lane in ("critic", "plan"):
            further = {"input": f"RECALL {lane}", "previous_response_id": parent}
            connection.response.create(model=model, stream_id=lane, store=False, **further)
        texts = {}
        for event in connection:
            assert event.type != "error", event
            if event.type == "response.completed":
                texts[event.stream_id] = event.response.output_text
            if len(texts) == 2:
                break
    assert texts == dict.fromkeys(("critic", "plan"), f"you said: {mark} plan SLOW 5 20")


def test_a_warm_up_asks_nothing_and_is_continued(client, model, mark):
    instructions = f"{mark} be brief"
    with client.responses.connect() as connection:
        warm = answer(
            connection,
            model=model,
            instructions=instructions,
            input="the code word is cobalt",
            store=False,
            generate=False,
        )
        assert (warm.output, warm.usage.total_tokens) == ([], 0)
        assert seen(mark) == []
        later = answer(
            connection,
            model=model,
            instructions=instructions,
            input="code word?",
            store=False,
            previous_response_id=warm.id,
        )
        assert "the code word is cobalt" in later.output_text
    expected = [f"developer: {instructions}", "user: the code word is cobalt", "user: code word?"]
    assert said(seen_once(mark))[-3:] == expected


def test_a_tool_is_called_and_answered(client, model, mark):
    with client.responses.connect() as connection:
        asked = f'{mark} CALLTOOL get_weather {{"city": "Oslo"}}'
        first = answer(connection, model=model, input=asked, tools=[TOOL], store=False)
        (call,) = [item for item in first.output if item.type == "function_call"]
        assert json.loads(call.arguments) == {"city": "Oslo"}
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        further = {"input": [output], "previous_response_id": first.id}
        second = answer(connection, model=model, tools=[TOOL], store=False, **further)
        assert second.output_text == "tool said: rain"
    bodies = seen(mark)
    assert len({body["client_metadata"]["turn_id"] for body in bodies}) == 1, "the turn waited for its output"
    wait_until_idle()


def test_mistakes_are_events_and_the_socket_goes_on(client, model, mark):
    with client.responses.connect() as connection:
        assert refusal(connection, model="none", input="x")[:2] == (404, "model_not_found")
        background = refusal(connection, model=model, input="x", background=True)
        assert background == (400, "unsupported_parameter", "background")
        missing = refusal(connection, model=model, input="x", previous_response_id="resp_none")
        assert missing == (400, "previous_response_not_found", "previous_response_id")
        assert refusal(connection, model=model, input="x", stream_id="a b") == (400, "invalid_stream_id", "stream_id")
        connection.send_raw("no json")
        assert events_of(connection)[-1].error.code == "invalid_json"
        connection.response.create(model=model, input=f"{mark} FAIL 400")
        assert events_of(connection)[-1].type in {"error", "response.failed"}
        assert answer(connection, model=model, input=f"SAY {mark}").output_text == mark


def test_a_wrong_key_has_no_socket(client):
    with pytest.raises((InvalidStatus, openai.OpenAIError)):
        client.with_options(api_key="wrong").responses.connect().enter()
