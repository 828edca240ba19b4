import openai
import pytest
from support import said, seen, seen_once


def test_by_items(client, model, mark):
    response = client.responses.create(
        model=model,
        input=[
            {"role": "user", "content": f"my name is {mark}"},
            {"role": "assistant", "content": "Hello!"},
            {"role": "user", "content": "RECALL"},
        ],
    )
    assert response.output_text == f"you said: my name is {mark}"


def test_by_previous_response_id(client, model, mark):
    texts = [f"one {mark}", "two", "three"]
    previous = None
    for text in texts:
        previous = client.responses.create(model=model, input=text, previous_response_id=previous and previous.id)
    recalled = client.responses.create(model=model, input="RECALL", previous_response_id=previous.id)
    assert recalled.previous_response_id == previous.id
    assert recalled.output_text == f"you said: {' / '.join(texts)}"
    assert said(seen(mark)[-1]) == [
        f"user: one {mark}", f"assistant: echo: one {mark}", "user: two", "assistant: echo: two",
        "user: three", "assistant: echo: three", "user: RECALL",
    ]


def test_branches_and_older_responses(client, model, mark):
    root = client.responses.create(model=model, input=f"root {mark}")
    left = client.responses.create(model=model, input="left", previous_response_id=root.id)
    right = client.responses.create(model=model, input="right", previous_response_id=root.id)
    again = client.responses.create(model=model, input="RECALL", previous_response_id=root.id)
    assert again.output_text == f"you said: root {mark}"
    for branch, word in ((left, "left"), (right, "right")):
        for _ in range(2):
            recalled = client.responses.create(model=model, input="RECALL", previous_response_id=branch.id)
            assert recalled.output_text == f"you said: root {mark} / {word}"


def test_instructions_are_not_carried_over(client, model, mark):
    first = client.responses.create(model=model, instructions="be brief", input=f"one {mark}")
    client.responses.create(model=model, input=f"two {mark}x", previous_response_id=first.id)
    assert said(seen_once(f"{mark}x")) == [f"user: one {mark}", f"assistant: echo: one {mark}", f"user: two {mark}x"]
    client.responses.create(
        model=model, instructions="be long", input=f"three {mark}y", previous_response_id=first.id
    )
    assert said(seen_once(f"{mark}y"))[0] == "developer: be long"
    assert "developer: be brief" not in said(seen_once(f"{mark}y"))


def test_reasoning_is_carried(client, model, mark):
    first = client.responses.create(model=model, input=f'THINK "thought {mark}" SAY one')
    client.responses.create(model=model, input=f"next {mark}x", previous_response_id=first.id)
    body = seen_once(f"{mark}x")
    assert said(body) == [f'user: THINK "thought {mark}" SAY one', "reasoning", "assistant: one", f"user: next {mark}x"]
    assert body["input"][1]["encrypted_content"]


def test_another_model_may_continue(client, mark):
    models = [model.id for model in client.models.list()]
    first = client.responses.create(model=models[0], input=f"one {mark}")
    second = client.responses.create(model=models[-1], input="RECALL", previous_response_id=first.id)
    assert second.output_text == f"you said: one {mark}"
    assert second.model == models[-1]
    body = seen(mark)[-1]
    assert body["model"] == models[-1]
    assert said(body) == [f"user: one {mark}", f"assistant: echo: one {mark}", "user: RECALL"]


def test_streamed_responses_are_continuable(client, model, mark):
    events = list(client.responses.create(model=model, input=f"one {mark}", stream=True))
    recalled = client.responses.create(
        model=model, input="RECALL", previous_response_id=events[-1].response.id, stream=True
    )
    text = "".join(event.delta for event in recalled if event.type == "response.output_text.delta")
    assert text == f"you said: one {mark}"


def test_responses_that_are_not_stored_are_continuable(client, model, mark):
    first = client.responses.create(model=model, input=f"one {mark}", store=False)
    second = client.responses.create(model=model, input="two", previous_response_id=first.id, store=False)
    stored = client.responses.create(model=model, input="RECALL", previous_response_id=second.id)
    assert (first.store, second.store, stored.store) == (False, False, True)
    assert stored.output_text == f"you said: one {mark} / two"


@pytest.mark.parametrize("previous", ["resp_0123456789abcdef", "nonsense"])
def test_an_unknown_previous_response_is_refused(client, model, mark, previous):
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model=model, input=mark, previous_response_id=previous)
    assert raised.value.param == "previous_response_id"
    assert raised.value.code == "previous_response_not_found"
    assert seen(mark) == []
