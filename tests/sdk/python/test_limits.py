"""Token limits and stop sequences, which the bridge applies itself."""

import openai
import pytest
from support import wait_until_idle


@pytest.mark.parametrize("stream", [False, True])
def test_a_token_limit_cuts_a_response(client, model, mark, stream):
    text = f"{mark} " + " ".join(f"word{n}" for n in range(200))
    result = client.responses.create(model=model, input=f"SAY {text}", max_output_tokens=16, stream=stream)
    if stream:
        events = list(result)
        deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert events[-1].type == "response.incomplete"
        result = events[-1].response
        assert deltas == result.output_text
    assert result.status == "incomplete"
    assert result.incomplete_details.reason == "max_output_tokens"
    assert result.max_output_tokens == 16
    assert result.output[-1].status == "incomplete"
    assert result.output_text and text.startswith(result.output_text) and len(result.output_text) < len(text)
    assert 0 < result.usage.output_tokens <= 16
    wait_until_idle()


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_token_limit_cuts_a_completion(client, model, mark, name, stream):
    text = f"{mark} " + " ".join(f"word{n}" for n in range(200))
    messages = [{"role": "user", "content": f"SAY {text}"}]
    result = client.chat.completions.create(model=model, messages=messages, stream=stream, **{name: 5})
    if stream:
        chunks = list(result)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        said, reason = result.choices[0].message.content, result.choices[0].finish_reason
    assert said and text.startswith(said) and len(said) < len(text)
    assert reason == "length"
    wait_until_idle()


@pytest.mark.parametrize("stream", [False, True])
def test_stop_sequences_are_never_part_of_the_answer(client, model, mark, stream):
    messages = [{"role": "user", "content": f"SAY {mark} one two STOP three END four"}]
    result = client.chat.completions.create(model=model, messages=messages, stop=["END", "STOP"], stream=stream)
    if stream:
        chunks = list(result)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        said, reason = result.choices[0].message.content, result.choices[0].finish_reason
    assert said == f"{mark} one two "
    assert reason == "stop"
    wait_until_idle()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"stop": ["1", "2", "3", "4", "5"]}, "stop"),
        ({"reasoning_effort": "heroic"}, "reasoning_effort"),
    ],
)
def test_what_is_out_of_range_is_named(client, model, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        messages = [{"role": "user", "content": "hi"}]
        client.chat.completions.create(model=model, messages=messages, **fields)
    assert refused.value.param == param


def test_the_allowed_efforts_are_named(client, model):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=model, input="hi", reasoning={"effort": "heroic"})
    assert refused.value.param == "reasoning.effort" and "'low'" in refused.value.message
