import pytest
from openai.types.chat import ChatCompletion
from support import input_tokens, said, seen, seen_once


def user(text):
    return [{"role": "user", "content": text}]


def test_whole_answer(client, model, mark):
    completion = client.chat.completions.create(model=model, messages=user(f"hello {mark}"))
    assert isinstance(completion, ChatCompletion)
    assert completion.object == "chat.completion"
    assert completion.model == model
    assert completion.id.startswith("chatcmpl")
    (choice,) = completion.choices
    assert (choice.index, choice.finish_reason) == (0, "stop")
    assert choice.message.role == "assistant"
    assert choice.message.content == f"echo: hello {mark}"
    assert choice.message.refusal is None
    assert choice.logprobs is None
    assert said(seen_once(mark)) == [f"user: hello {mark}"]


def test_usage_is_the_models_own(client, model, mark):
    thought = client.chat.completions.create(model=model, messages=user(f'THINK "two words" SAY {mark} is said'))
    usage, tokens = thought.usage, input_tokens(seen_once(mark))
    assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (tokens, tokens // 2)
    assert (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens) == (5, 2)
    assert usage.total_tokens == tokens + 5


@pytest.mark.parametrize("include_usage", [True, False])
def test_stream(client, model, mark, include_usage):
    text = f"{mark} Grüße, 世界\n\nsecond line"
    options = {"stream_options": {"include_usage": True}} if include_usage else {}
    chunks = list(client.chat.completions.create(model=model, messages=user(f"SAY {text}"), stream=True, **options))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1 and len({chunk.created for chunk in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for choice in choices) == text
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert choices[-1].finish_reason == "stop"
    if include_usage:
        last = chunks[-1]
        assert last.choices == []
        assert last.usage.prompt_tokens == input_tokens(seen_once(mark))
        assert last.usage.completion_tokens == len(text.split())
        assert all(chunk.usage is None for chunk in chunks[:-1])
    else:
        assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_the_helpers_stream_builds_the_same_completion(client, model, mark):
    with client.chat.completions.stream(model=model, messages=user(f"SAY {mark} one two")) as stream:
        for _ in stream:
            pass
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == f"{mark} one two"


def test_every_role_and_content_form(client, model, mark):
    client.chat.completions.create(
        model=model,
        messages=[
            {"role": "system", "content": f"system {mark}"},
            {"role": "developer", "content": [{"type": "text", "text": "developer"}]},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "name": "ann"},
            {"role": "assistant", "content": "three"},
            {"role": "assistant", "content": [{"type": "text", "text": "four"}]},
            {"role": "user", "content": "five"},
        ],
    )
    assert said(seen_once(mark)) == [
        f"developer: system {mark}",
        "developer: developer",
        "user: one|two",
        "assistant: three",
        "assistant: four",
        "user: five",
    ]


def test_history_by_messages(client, model, mark):
    completion = client.chat.completions.create(
        model=model,
        messages=[
            {"role": "user", "content": f"my name is {mark}"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "RECALL"},
        ],
    )
    assert completion.choices[0].message.content == f"you said: my name is {mark}"


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices(client, model, mark, stream):
    answer = client.chat.completions.create(
        model=model, messages=user(f"SAY {mark} twice"), n=3, stream=stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    )
    if stream:
        texts, reasons, usage = {}, {}, None
        for chunk in answer:
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
                if choice.finish_reason:
                    assert choice.index not in reasons
                    reasons[choice.index] = choice.finish_reason
            usage = chunk.usage or usage
    else:
        texts = {choice.index: choice.message.content for choice in answer.choices}
        reasons = {choice.index: choice.finish_reason for choice in answer.choices}
        usage = answer.usage
    assert texts == {n: f"{mark} twice" for n in range(3)}
    assert reasons == {n: "stop" for n in range(3)}
    bodies = seen(mark)
    assert len(bodies) == 3
    assert usage.completion_tokens == 6
    assert usage.prompt_tokens in [input_tokens(body) for body in bodies], "the prompt counts once"
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_reasoning_content_only_where_asked_for(client, model, mark):
    messages = user(f'THINK "thought {mark}" SAY done')
    plain = client.chat.completions.create(model=model, messages=messages)
    assert "reasoning_content" not in plain.choices[0].message.to_dict()
    asked = client.chat.completions.create(
        model=model, messages=messages, extra_body={"reasoning": {"summary": "auto"}}
    )
    assert asked.choices[0].message.to_dict()["reasoning_content"] == f"thought {mark}"
    assert asked.choices[0].message.content == "done"
    chunks = client.chat.completions.create(
        model=model, messages=messages, extra_body={"reasoning": {"summary": "auto"}}, stream=True
    )
    deltas = [choice.delta.to_dict() for chunk in chunks for choice in chunk.choices]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == f"thought {mark}"
    assert "".join(delta.get("content") or "" for delta in deltas) == "done"


def test_settings_reach_the_model(client, model, mark):
    client.chat.completions.create(
        model=model, messages=user(mark), reasoning_effort="low", verbosity="low", service_tier="flex"
    )
    body = seen_once(mark)
    assert body["reasoning"]["effort"] == "low"
    assert body["text"]["verbosity"] == "low"
    assert body["service_tier"] == "flex"


def test_what_cannot_be_honoured_is_named(client, model, mark):
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=user(f"SAY {mark}"), temperature=0.1, seed=7, extra_body={"made_up": True}
    )
    assert raw.parse().choices[0].message.content == mark
    ignored = {name.strip() for name in raw.headers["x-codex-bridge-ignored"].split(",")}
    assert {"temperature", "seed", "made_up"} <= ignored
