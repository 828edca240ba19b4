import pytest
from openai.types.responses import Response
from support import forget_requests, input_tokens, said, seen_once


def test_whole_answer(client, model, mark):
    response = client.responses.create(model=model, input=f"hello {mark}", metadata={"purpose": "test"})
    assert isinstance(response, Response)
    assert response.output_text == f"echo: hello {mark}"
    assert response.status == "completed"
    assert response.model == model
    assert response.id.startswith("resp_")
    assert response.error is None and response.incomplete_details is None
    assert response.metadata == {"purpose": "test"}
    assert [item.type for item in response.output] == ["message"]
    assert response.output[0].status == "completed"
    assert said(seen_once(mark)) == [f"user: hello {mark}"]


def test_no_model_is_the_default(client, mark):
    response = client.responses.create(input=f"SAY {mark}")
    assert response.output_text == mark
    assert response.model in [model.id for model in client.models.list()]


def test_usage_is_the_models_own(client, model, mark):
    response = client.responses.create(model=model, input=f"SAY {mark} one two three")
    tokens = input_tokens(seen_once(mark))
    usage = response.usage
    assert (usage.input_tokens, usage.input_tokens_details.cached_tokens) == (tokens, tokens // 2)
    assert (usage.output_tokens, usage.output_tokens_details.reasoning_tokens) == (4, 0)
    assert usage.total_tokens == tokens + 4


def test_stream(client, model, mark):
    text = f"{mark} Grüße, 世界 \N{WAVING HAND SIGN}\n\nsecond line"
    events = list(client.responses.create(model=model, input=f"SAY {text}", stream=True))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    body = [kind for kind in kinds[2:-1] if kind != "response.output_text.delta"]
    assert body == [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1].response
    assert deltas == final.output_text == text
    done = next(event for event in events if event.type == "response.output_text.done")
    assert done.text == text
    assert events[0].response.id == final.id
    assert events[0].response.status == "in_progress" and events[0].response.output == []
    ids = {event.item_id for event in events if hasattr(event, "item_id")}
    assert ids == {final.output[0].id}
    assert final.usage.input_tokens == input_tokens(seen_once(mark))
    assert final.status == "completed"


def test_the_helpers_stream_builds_the_same_response(client, model, mark):
    with client.responses.stream(model=model, input=f"SAY {mark} one two") as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text == f"{mark} one two"
    assert final.status == "completed" and final.usage.output_tokens == 3


def test_deltas_come_as_they_are_made(client, model, mark):
    """More than one, so not the whole answer at its end."""
    stream = client.responses.create(model=model, input=f"{mark} SLOW 8 20", stream=True)
    deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == " ".join(f"w{n}" for n in range(8))
    assert len(deltas) >= 4


def test_instructions_and_roles_reach_the_model_as_they_are(client, model, mark):
    client.responses.create(
        model=model,
        instructions=f"obey {mark}",
        input=[
            {"role": "system", "content": "from the system"},
            {"role": "developer", "content": [{"type": "input_text", "text": "from the developer"}]},
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "an answer"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "last"}]},
        ],
    )
    assert said(seen_once(mark)) == [
        f"developer: obey {mark}",
        "developer: from the system",
        "developer: from the developer",
        "user: first",
        "assistant: an answer",
        "user: last",
    ]


def test_reasoning_is_an_item_with_its_summary(client, model, mark):
    response = client.responses.create(
        model=model,
        input=f'THINK "first {mark}\\nthen more" SAY done',
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content"],
    )
    reasoning, message = response.output
    assert reasoning.type == "reasoning"
    assert "".join(part.text for part in reasoning.summary) == f"first {mark}\nthen more"
    assert reasoning.encrypted_content
    assert message.content[0].text == response.output_text == "done"
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    assert response.usage.output_tokens > response.usage.output_tokens_details.reasoning_tokens
    body = seen_once(mark)
    assert body["reasoning"]["effort"] == "low"
    assert body["reasoning"]["summary"] == "auto"
    assert response.reasoning.effort == "low"


def test_encrypted_reasoning_only_where_included(client, model):
    response = client.responses.create(model=model, input='THINK "a thought" SAY done')
    reasoning = response.output[0]
    assert reasoning.type == "reasoning"
    assert not reasoning.encrypted_content


def test_streamed_reasoning(client, model, mark):
    stream = client.responses.create(
        model=model,
        input=f'THINK "{mark} is a thought" SAY done',
        reasoning={"summary": "auto"},
        stream=True,
    )
    events = list(stream)
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_summary_text.delta")
    assert thought == f"{mark} is a thought"
    final = events[-1].response
    assert "".join(part.text for part in final.output[0].summary) == thought
    assert final.output_text == "done"
    for kind in (
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
    ):
        assert kind in [event.type for event in events]
    added = [event for event in events if event.type == "response.output_item.added"]
    assert [(event.item.type, event.output_index) for event in added] == [("reasoning", 0), ("message", 1)]
    assert [event.item.id for event in added] == [item.id for item in final.output]


def test_output_items_sent_back_verbatim(client, model, mark):
    first = client.responses.create(
        model=model,
        input=f'THINK "thought {mark}" SAY one',
        reasoning={"summary": "auto"},
        include=["reasoning.encrypted_content"],
        store=False,
    )
    history = [{"role": "user", "content": f"before {mark}b"}, *first.output, {"role": "user", "content": "RECALL"}]
    second = client.responses.create(model=model, input=history, store=False)
    assert second.output_text == f"you said: before {mark}b"
    body = seen_once(f"{mark}b")
    assert said(body) == [f"user: before {mark}b", "reasoning", "assistant: one", "user: RECALL"]
    reasoning = body["input"][1]
    assert reasoning["encrypted_content"] == first.output[0].encrypted_content
    assert reasoning["summary"] == [{"type": "summary_text", "text": f"thought {mark}"}]


@pytest.mark.parametrize("verbosity", ["low", "high"])
def test_verbosity_reaches_the_model(client, model, mark, verbosity):
    response = client.responses.create(model=model, input=mark, text={"verbosity": verbosity})
    assert seen_once(mark)["text"]["verbosity"] == verbosity
    assert response.text.verbosity == verbosity


def test_unasked_settings_are_not_sent(client, model, mark):
    client.responses.create(model=model, input=mark)
    body = seen_once(mark)
    assert "verbosity" not in (body.get("text") or {})
    assert "service_tier" not in body
    assert not body.get("tools")


@pytest.mark.parametrize("tier", ["flex", "priority"])
def test_service_tier_reaches_the_model(client, model, mark, tier):
    client.responses.create(model=model, input=mark, service_tier=tier)
    assert seen_once(mark)["service_tier"] == tier


def test_what_cannot_be_honoured_is_named(client, model, mark):
    raw = client.responses.with_raw_response.create(
        model=model, input=f"SAY {mark}", temperature=0.5, extra_body={"made_up": 1}
    )
    assert raw.parse().output_text == mark
    ignored = [name.strip() for name in raw.headers["x-codex-bridge-ignored"].split(",")]
    assert "temperature" in ignored and "made_up" in ignored
    assert "model" not in ignored and "input" not in ignored
    clean = client.responses.with_raw_response.create(model=model, input=f"SAY {mark}")
    assert "x-codex-bridge-ignored" not in clean.headers


def test_a_request_id_comes_back(client, model, mark):
    raw = client.responses.with_raw_response.create(
        model=model, input=f"SAY {mark}", extra_headers={"x-request-id": mark}
    )
    assert raw.headers["x-request-id"] == mark
    assert client.responses.create(model=model, input="SAY x")._request_id


def test_long_input_comes_through_whole(client, model, mark):
    text = f"{mark} " + "lorem ipsum dolor sit amet " * 60_000
    response = client.responses.create(
        model=model, input=[{"role": "user", "content": text}, {"role": "user", "content": "SAY ok"}]
    )
    assert response.output_text == "ok"
    assert seen_once(mark)["input"][0]["content"][0]["text"] == text
    forget_requests()  # 2 MB that every later look would fetch
