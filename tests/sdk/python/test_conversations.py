"""Conversations, stored chat completions, and the completions of old."""

import openai
import pytest
from support import seen_once


def test_a_conversation_is_gone_on_with(client, model, mark):
    made = client.conversations.create(
        metadata={"topic": "demo"}, items=[{"role": "user", "content": f"hello {mark}"}]
    )
    assert made.id.startswith("conv_") and made.object == "conversation"
    first = client.responses.create(model=model, conversation=made.id, input="SAY one")
    assert first.output_text == "one" and first.conversation.id == made.id
    with client.responses.stream(model=model, conversation=made.id, input="SAY two") as stream:
        second = stream.get_final_response()
    assert second.output_text == "two"
    items = list(client.conversations.items.list(made.id, order="asc", limit=2))
    texts = [item.content[0].text for item in items if item.type == "message"]
    assert texts == [f"hello {mark}", "SAY one", "one", "SAY two", "two"]

    added = client.conversations.items.create(made.id, items=[{"role": "user", "content": "more"}])
    assert client.conversations.items.retrieve(added.data[0].id, conversation_id=made.id) == added.data[0]
    left = client.conversations.items.delete(added.data[0].id, conversation_id=made.id)
    assert left.id == made.id
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(added.data[0].id, conversation_id=made.id)

    assert client.conversations.update(made.id, metadata={"topic": "other"}).metadata == {"topic": "other"}
    assert client.conversations.retrieve(made.id).metadata == {"topic": "other"}
    with pytest.raises(openai.BadRequestError, match="Mutually exclusive") as both:
        client.responses.create(model=model, conversation=made.id, previous_response_id=first.id, input="x")
    assert both.value.code == "mutually_exclusive_parameters"
    assert client.conversations.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model=model, conversation=made.id, input="x")
    assert missing.value.code == "conversation_not_found"


def test_a_tools_output_goes_to_the_call_in_the_conversation(client, model, mark):
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]
    conversation = client.conversations.create().id
    called = client.responses.create(
        model=model, conversation=conversation, input="CALLTOOL look {}", tools=tools, store=False
    )
    call = next(item for item in called.output if item.type == "function_call")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": mark}
    client.responses.create(
        model=model, conversation=conversation, input=[output], tools=tools, store=False
    )
    seen = seen_once(mark)
    kinds = [item["type"] for item in seen["input"]]
    assert kinds[-2:] == ["function_call", "function_call_output"]


def test_stored_chat_completions(client, model, mark):
    def ask(text, **more):
        return client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": text}],
            store=True,
            metadata={"mark": mark},
            **more,
        )

    whole = ask("SAY one")
    streamed = list(ask("SAY two", stream=True))
    stored = list(client.chat.completions.list(metadata={"mark": mark}, limit=1))
    assert [one.id for one in stored] == [whole.id, streamed[0].id]
    assert stored[1].choices[0].message.content == "two"
    assert client.chat.completions.retrieve(whole.id).choices == whole.choices
    messages = list(client.chat.completions.messages.list(whole.id))
    assert [message.content for message in messages] == ["SAY one"]
    changed = client.chat.completions.update(whole.id, metadata={"mark": f"{mark}-2"})
    assert changed.metadata == {"mark": f"{mark}-2"}
    assert client.chat.completions.delete(whole.id).deleted
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.retrieve(whole.id)
    assert missing.value.code == "completion_not_found"


def test_the_completions_of_old(client, model, mark):
    whole = client.completions.create(model=model, prompt=[f"SAY {mark}", "SAY b"], echo=True, max_tokens=64)
    assert [choice.text for choice in whole.choices] == [f"SAY {mark}{mark}", "SAY bb"]
    assert {choice.finish_reason for choice in whole.choices} == {"stop"}
    seen = seen_once(mark)
    assert [item["role"] for item in seen["input"]] == ["user"]
    chunks = client.completions.create(model=model, prompt="SAY a b c", stream=True, max_tokens=64)
    assert "".join(chunk.choices[0].text for chunk in chunks) == "a b c"
    with pytest.raises(openai.BadRequestError, match="Send the text"):
        client.completions.create(model=model, prompt=[1, 2, 3])
