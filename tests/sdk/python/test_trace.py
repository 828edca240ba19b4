"""The trace that a request may ask for, read as SDK users read it, and sessions."""

import json

import openai
import pytest
from support import seen_once

ASK = {"x-codex-bridge-trace": "1"}


def trace_of(thing):
    """The trace in a response, a completion or a chunk."""
    return thing.model_extra["bridge"]["trace"]


def turn_metadata(body):
    """What the app-server told the backend about the turn."""
    return json.loads(body["client_metadata"]["x-codex-turn-metadata"])


def check(trace, target):
    assert trace["request"]["target"] == target
    assert trace["route"] == "fresh" and trace["rebuilt_because"] is None
    assert all(trace["mapping"].values())
    phases = [trace["phases_ms"][name] for name in ("queued", "starting", "first_event", "done")]
    assert phases == sorted(phases)
    assert (trace["turns"], trace["retries"], trace["ended"]) == (1, 0, "answered")


def test_a_response_and_its_stream(client, model, mark):
    request = {"model": model, "input": f"SAY {mark}", "include": ["bridge.trace"], "temperature": 0.5}
    whole = client.responses.create(**request)
    trace = trace_of(whole)
    check(trace, "POST /v1/responses")
    assert trace["mapping"]["response_id"] == whole.id
    assert trace["mapping"]["thread_id"] == turn_metadata(seen_once(mark))["thread_id"]
    assert trace["ignored"] == ["temperature"]
    assert trace["continuation"]["expires_at"] > whole.created_at

    events = list(client.responses.create(**request, stream=True))
    assert [event.type for event in events if "bridge" in event.to_json()] == ["response.completed"]
    check(trace_of(events[-1].response), "POST /v1/responses")
    with client.responses.stream(**request) as stream:
        final = stream.get_final_response()
    assert final.output_text == mark
    check(trace_of(final), "POST /v1/responses")


def test_a_completion_and_its_stream(client, model, mark):
    request = {"model": model, "messages": [{"role": "user", "content": f"SAY {mark}"}], "extra_headers": ASK}
    whole = client.chat.completions.create(**request)
    check(trace_of(whole), "POST /v1/chat/completions")
    assert trace_of(whole)["continuation"]["expires_at"] is None
    for options in ({}, {"stream_options": {"include_usage": True}}):
        chunks = list(client.chat.completions.create(**request, **options, stream=True))
        assert [n for n, chunk in enumerate(chunks) if "bridge" in chunk.model_extra] == [len(chunks) - 1]
        check(trace_of(chunks[-1]), "POST /v1/chat/completions")
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == mark


def test_each_choice_has_its_own(client, model, mark):
    request = {"model": model, "messages": [{"role": "user", "content": f"SAY {mark}"}], "n": 2, "extra_headers": ASK}
    for trace in (
        trace_of(client.chat.completions.create(**request)),
        trace_of(list(client.chat.completions.create(**request, stream=True))[-1]),
    ):
        first, second = trace["choices"]
        assert first["mapping"] == trace["mapping"]
        assert first["mapping"]["turn_id"] != second["mapping"]["turn_id"]
        assert second["ended"] == "answered"


def test_unasked_there_is_none(client, model):
    assert "bridge" not in client.responses.create(model=model, input="hi").model_extra
    completion = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}])
    assert "bridge" not in completion.model_extra


def test_a_failure_has_it_in_its_body(client, model):
    with pytest.raises(openai.RateLimitError) as failure:
        client.responses.create(model=model, input="FAIL usage", include=["bridge.trace"])
    trace = failure.value.body["bridge"]["trace"]
    assert (trace["ended"], trace["route"]) == ("failed", "fresh")
    with pytest.raises(openai.BadRequestError) as failure:
        client.responses.create(model=model, input="hi", include=["bridge.other"])
    assert failure.value.param == "include[0]"
    # After the head of a stream.
    with pytest.raises(openai.APIError) as failure:
        messages = [{"role": "user", "content": "FAIL stream"}]
        list(client.chat.completions.create(model=model, messages=messages, stream=True, extra_headers=ASK))
    assert failure.value.body["bridge"]["trace"]["ended"] == "failed"


def test_a_conversation_is_told_along_its_chain(client, model, mark):
    def ask(**request):
        response = client.responses.create(model=model, extra_headers={**ASK, **request.pop("headers", {})}, **request)
        return response, trace_of(response)

    first, trace = ask(input=f"SAY {mark}", headers={"session-id": mark})
    assert trace["session"] == {"id": mark, "source": "header", "name": "session-id"}
    assert turn_metadata(seen_once(mark))["client_session_id"] == mark
    _, trace = ask(input="more", previous_response_id=first.id)
    assert (trace["route"], trace["continuation"]["chain_length"]) == ("live", 2)
    assert trace["session"] == {"id": mark, "source": "previous", "name": None}
    _, trace = ask(input="other", previous_response_id=first.id)
    assert (trace["route"], trace["rebuilt_because"]) == ("rebuilt", "not_loaded")
    assert trace["continuation"]["previous_response_id"] == first.id


def test_sessions_by_body_and_by_content(client, model, mark):
    def session(**request):
        request = {"model": model, "extra_headers": ASK, **request}
        return trace_of(client.chat.completions.create(**request))["session"]

    begin = [{"role": "system", "content": "be brief"}, {"role": "user", "content": mark}]
    assert session(messages=begin, metadata={"session_id": mark}) == {
        "id": mark,
        "source": "body",
        "name": "metadata.session_id",
    }
    assert session(messages=begin, prompt_cache_key=mark)["name"] == "prompt_cache_key"
    derived = session(messages=begin)
    assert derived["source"] == "derived"
    grown = [*begin, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "more"}]
    assert session(messages=grown) == derived
    other = [{"role": "system", "content": "be"}, {"role": "user", "content": f" brief{mark}"}]
    assert session(messages=other) != derived
