"""Background responses: polled, streamed again from any event, cancelled."""

import time

import openai
import pytest
from support import seen_once


def ended(client, response):
    deadline = time.monotonic() + 60
    while response.status in {"queued", "in_progress"}:
        assert time.monotonic() < deadline, response
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    return response


def test_a_response_is_polled_until_it_has_ended(client, model, mark):
    response = client.responses.create(model=model, input=f"SAY {mark}", background=True)
    assert response.status == "queued" and response.background
    done = ended(client, response)
    assert (done.status, done.output_text) == ("completed", mark)
    assert client.responses.cancel(done.id).status == "completed"
    seen_once(mark)
    more = client.responses.create(model=model, input="SAY more", previous_response_id=done.id)
    assert more.output_text == "more"
    client.responses.delete(done.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(done.id)


def test_a_lost_stream_goes_on_where_it_was(client, model, mark):
    first = client.responses.create(
        model=model, input=f"{mark} SLOW 60 20", background=True, stream=True
    )
    seen = []
    for event in first:
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    first.close()
    assert [event.type for event in seen[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    response_id = seen[0].response.id
    with pytest.raises(openai.BadRequestError) as early:
        client.responses.create(model=model, input="SAY x", previous_response_id=response_id)
    assert early.value.code == "previous_response_in_progress"
    rest = list(
        client.responses.retrieve(
            response_id, stream=True, starting_after=seen[-1].sequence_number
        )
    )
    numbers = [event.sequence_number for event in seen + rest]
    assert numbers == list(range(len(numbers)))
    assert rest[-1].type == "response.completed"
    text = "".join(event.delta for event in seen + rest if event.type == "response.output_text.delta")
    assert text == rest[-1].response.output_text
    again = list(client.responses.retrieve(response_id, stream=True))
    assert [event.to_dict() for event in again] == [event.to_dict() for event in seen + rest]
    seen_once(mark)


def test_a_response_is_cancelled(client, model, mark):
    response = client.responses.create(model=model, input=f"{mark} SLOW 400 50", background=True)
    for _ in range(2):
        assert client.responses.cancel(response.id).status == "cancelled"
    assert client.responses.retrieve(response.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.retrieve(response.id, stream=True)


def test_background_wants_store(client, model):
    with pytest.raises(openai.BadRequestError) as wrong:
        client.responses.create(model=model, input="SAY x", background=True, store=False)
    assert wrong.value.param == "background"


def test_input_tokens_are_counted(client, model, mark):
    short = client.responses.input_tokens.with_raw_response.count(model=model, input=mark)
    assert short.headers["x-codex-bridge-estimate"] == "true"
    long = client.responses.input_tokens.count(model=model, input=mark, instructions="be kind")
    assert short.parse().object == "response.input_tokens"
    assert 0 < short.parse().input_tokens < long.input_tokens
