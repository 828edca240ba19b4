"""Stored responses: read again, listed, deleted."""

import openai
import pytest
from support import seen_once


def test_a_stored_response_is_read_as_it_was_told(client, model, mark):
    told = client.responses.create(
        model=model,
        instructions=f"be kind {mark}",
        input=f"SAY {mark}",
        metadata={"task": "test"},
        text={"verbosity": "low"},
    )
    read = client.responses.retrieve(told.id)
    assert read.to_dict() == {**told.to_dict(), "completed_at": read.completed_at}
    assert read.output_text == mark
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        client.responses.cancel(told.id)

    client.responses.delete(told.id)
    for call in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError) as missing:
            call(told.id)
        assert missing.value.code == "response_not_found"
    with pytest.raises(openai.BadRequestError) as missing:
        client.responses.create(model=model, input="SAY no", previous_response_id=told.id)
    assert missing.value.code == "previous_response_not_found"


def test_input_items_are_what_the_model_was_given(client, model, mark):
    first = client.responses.create(model=model, input=f"SAY {mark}")
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]
    second = client.responses.create(
        model=model, input="CALLTOOL look {}", tools=tools, previous_response_id=first.id
    )
    call = next(item for item in second.output if item.type == "function_call")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
    third = client.responses.create(
        model=model, input=[output], tools=tools, previous_response_id=second.id
    )
    # The SDK asks for page after page.
    items = list(client.responses.input_items.list(third.id, order="asc", limit=2))
    kinds = [item.type for item in items if item.type != "reasoning"]
    assert kinds == ["message", "message", "message", "function_call", "function_call_output"]
    assert items[0].content[0].text == f"SAY {mark}"
    assert items[-1].output == "42"
    assert len({item.id for item in items}) == len(items)
    newest = client.responses.input_items.list(third.id, limit=1)
    assert newest.data[0].id == items[-1].id and newest.has_more


def test_what_is_not_stored_is_not_found(client, model, mark):
    response = client.responses.create(model=model, input=f"SAY {mark}", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(response.id)
    seen_once(mark)


def test_a_streamed_and_a_cut_response_are_read_again(client, model, mark):
    events = list(client.responses.create(model=model, input=f"SAY {mark}", stream=True))
    told = events[-1].response
    read = client.responses.retrieve(told.id)
    assert read.to_dict() == {**told.to_dict(), "completed_at": read.completed_at}
    cut = client.responses.create(model=model, input=f"SAY {mark} " + "word " * 200, max_output_tokens=16)
    read = client.responses.retrieve(cut.id)
    assert read.status == "incomplete" and read.incomplete_details.reason == "max_output_tokens"
    assert read.to_dict() == cut.to_dict()
