import asyncio

import openai
import pytest
import support
from support import seen, seen_once, wait_until_idle


def test_a_wrong_key(client):
    with pytest.raises(openai.AuthenticationError) as raised:
        client.with_options(api_key="wrong").models.list()
    assert raised.value.code == "invalid_api_key"
    assert "wrong" not in str(raised.value)


def test_an_unknown_model(client, mark):
    calls = [
        lambda: client.responses.create(model="no-such-model", input=mark),
        lambda: client.responses.create(model="no-such-model", input=mark, stream=True),
        lambda: client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": mark}]),
    ]
    for call in calls:
        with pytest.raises(openai.NotFoundError) as raised:
            call()
        assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
        assert "no-such-model" in raised.value.message
    assert seen(mark) == [], "refused before anything is sent"


BAD_RESPONSES = {
    "input": {},
    "input[0].role": {"input": [{"role": "nobody", "content": "x"}]},
    "input[0].type": {"input": [{"type": "made_up"}]},
    "input[1].content[0].type": {
        "input": [{"role": "user", "content": "x"}, {"role": "user", "content": [{"type": "made_up"}]}]
    },
    "reasoning.effort": {"input": "x", "reasoning": {"effort": 3}},
    "text.verbosity": {"input": "x", "text": {"verbosity": "loud"}},
    "stream": {"input": "x", "stream": "yes"},
    "metadata": {"input": "x", "metadata": {"a": 1}},
    "include": {"input": "x", "include": "all"},
}


@pytest.mark.parametrize("param", BAD_RESPONSES)
def test_a_bad_responses_request_names_its_field(client, model, param):
    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/responses", body={"model": model, **BAD_RESPONSES[param]}, cast_to=object)
    assert raised.value.type == "invalid_request_error"
    assert (raised.value.param or "").startswith(param)


BAD_CHAT = {
    "messages": {},
    "messages[0].role": {"messages": [{"role": "nobody", "content": "x"}]},
    "messages[0].content": {"messages": [{"role": "user", "content": 3}]},
    "n": {"messages": [{"role": "user", "content": "x"}], "n": 0},
    "reasoning_effort": {"messages": [{"role": "user", "content": "x"}], "reasoning_effort": 3},
}


@pytest.mark.parametrize("param", BAD_CHAT)
def test_a_bad_chat_request_names_its_field(client, model, param):
    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/chat/completions", body={"model": model, **BAD_CHAT[param]}, cast_to=object)
    assert raised.value.type == "invalid_request_error"
    assert (raised.value.param or "").startswith(param)


def test_an_item_the_app_server_would_drop_is_named(client, model, mark):
    dropped = [
        {"type": "item_reference", "id": "msg_1"},
        {"type": "function_call_output", "call_id": "call_1", "output": "x"},
    ]
    for item in dropped:
        with pytest.raises(openai.BadRequestError) as raised:
            client.responses.create(model=model, input=[{"role": "user", "content": mark}, item])
        assert (raised.value.param or "").startswith("input[1]"), raised.value
    assert seen(mark) == []


def test_the_usage_limit(client, model, mark):
    for call in (
        lambda: client.responses.create(model=model, input=f"{mark} FAIL usage"),
        lambda: client.responses.create(model=model, input=f"{mark} FAIL usage", stream=True),
        lambda: client.chat.completions.create(model=model, messages=[{"role": "user", "content": f"{mark} FAIL usage"}]),
    ):
        with pytest.raises(openai.RateLimitError) as raised:
            call()
        assert raised.value.code == "usage_limit_reached"
        assert raised.value.status_code == 429
    if "https" in support.STANDIN_URL:
        # The logged-in face knows when the window starts anew.
        assert int(raised.value.response.headers["retry-after"]) >= 1


def test_the_context_window(client, model, mark):
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model=model, input=f"{mark} FAIL context")
    assert raised.value.code == "context_length_exceeded"


def test_failures_that_the_app_server_tries_again_first(new_async_client, model, mark):
    """All at once: each takes seconds."""
    wanted = {
        "FAIL 401": (openai.AuthenticationError, "codex login"),
        "FAIL 429 1": (openai.RateLimitError, ""),
        "FAIL stream": (openai.InternalServerError, ""),
    }

    async def streamed(client):
        stream = await client.responses.create(model=model, input=f"{mark} FAIL stream", stream=True)
        return [event async for event in stream]

    async def streamed_chat(client):
        messages = [{"role": "user", "content": f"{mark} FAIL stream"}]
        chunks = await client.chat.completions.create(model=model, messages=messages, stream=True)
        return [chunk async for chunk in chunks]

    async def run():
        async with new_async_client() as client:
            calls = [client.responses.create(model=model, input=f"{mark} {text}") for text in wanted]
            calls += [streamed(client), streamed_chat(client)]
            return await asyncio.gather(*calls, return_exceptions=True)

    *errors, events, chat = asyncio.run(run())
    for (text, (kind, words)), error in zip(wanted.items(), errors, strict=True):
        assert isinstance(error, kind), f"{text}: {error!r}"
        assert error.code and words in error.message, f"{text}: {error!r}"

    # Once the head is sent a failure is an event, never a silent end.
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.code == "server_error"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas and len(deltas) == len(set(deltas)), "a retried prefix was sent twice"
    assert isinstance(chat, openai.APIError), chat
    assert chat.code and not isinstance(chat, openai.APIConnectionError)
    wait_until_idle()


def test_a_failure_leaves_nothing_behind(client, model, mark):
    with pytest.raises(openai.APIStatusError):
        client.responses.create(model=model, input=f"{mark} FAIL usage")
    assert client.responses.create(model=model, input=f"SAY {mark}x").output_text == f"{mark}x"
    assert seen_once(f"{mark}x")
    wait_until_idle()


def test_a_request_bounds_the_app_servers_retries(client, model, mark):
    """Codex would try for half a minute; the SDK itself goes by `x-should-retry`, here switched off."""
    once = client.with_options(max_retries=0, default_headers={"x-codex-bridge-max-wait": "1s"})
    text = f"{mark} FAIL 503"
    for call in (
        lambda: once.responses.create(model=model, input=text),
        lambda: once.chat.completions.create(model=model, messages=[{"role": "user", "content": text}]),
    ):
        with pytest.raises(openai.InternalServerError) as raised:
            call()
        assert (raised.value.status_code, raised.value.code) == (503, "server_overloaded")
        assert int(raised.value.response.headers["retry-after"]) >= 1


def test_the_sdk_does_not_repeat_what_cannot_succeed(client, model, mark):
    with pytest.raises(openai.InternalServerError) as raised:
        client.with_options(max_retries=2).responses.create(model=model, input=f"{mark} FAIL invalid_prompt")
    assert raised.value.code == "upstream_refused"
    assert len(seen(mark)) == 1
