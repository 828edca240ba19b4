"""Compaction: its output is the next input, again and again, and what reaches the model is that and no more."""

import os
import time
import warnings

import openai
import pytest
from support import said, seen

LOGGED_IN = os.environ.get("STANDIN_FACE") == "chatgpt"
# How Codex hands a summary to the model, where the backend makes no item of it.
HANDED = "Another language model started to solve this problem"


def parts(output):
    return [getattr(item, "role", None) or item.type for item in output]


def dumped(output):
    # The SDK's types know no message of a user's in an output.
    return [item.model_dump(exclude_none=True, warnings=False) for item in output]


def stands_for(line, words):
    """Whether a line of the upstream input is the summary, and holds `words`."""
    if LOGGED_IN:
        return line == "compaction"
    return line.startswith(f"user: {HANDED}") and words in line


def history(mark):
    return [
        {"role": "developer", "content": f"rules {mark}"},
        {"role": "user", "content": f"my name is {mark}"},
        {"role": "assistant", "content": "hello", "phase": "commentary"},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "nothing"},
        {"role": "user", "content": "and I like tea"},
        {"role": "assistant", "content": "noted", "phase": "final_answer"},
    ]


def test_the_output_is_the_next_input(client, model, mark):
    compacted = client.responses.compact(model=model, input=history(mark))
    assert compacted.object == "response.compaction" and compacted.id.startswith("resp_")
    assert parts(compacted.output) == ["developer", "user", "user", "compaction"]
    assert compacted.usage.input_tokens > 0 and compacted.usage.output_tokens > 0
    asked = seen(mark)[-1]
    lines = said(asked)[:7]
    assert lines[:2] == [f"developer: rules {mark}", f"user: my name is {mark}"]
    assert lines[3:5] == ["function_call", "function_call_output"]
    assert [item.get("phase") for item in asked["input"] if item.get("role") == "assistant"] == [
        "commentary",
        "final_answer",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # As the guide has it: the objects themselves.
        after = [*compacted.output, {"role": "user", "content": f"RECALL {mark}"}]
        answer = client.responses.create(model=model, input=after)
    assert f"my name is {mark} / and I like tea" in answer.output_text
    assert f"summary of: my name is {mark} / and I like tea" in answer.output_text
    lines = said(seen(f"RECALL {mark}")[-1])
    assert lines[:3] == [f"developer: rules {mark}", f"user: my name is {mark}", "user: and I like tea"]
    assert stands_for(lines[3], f"summary of: my name is {mark}") and lines[4:] == [f"user: RECALL {mark}"]


def test_a_compacted_history_is_compacted_again(client, model, mark):
    items = [{"role": "user", "content": f"one {mark}"}]
    for word in ["two", "three"]:
        items = dumped(client.responses.compact(model=model, input=items).output)
        items.append({"role": "user", "content": f"{word} {mark}"})
    compacted = client.responses.compact(model=model, input=items)
    assert parts(compacted.output) == ["user", "user", "user", "compaction"]
    answer = client.responses.create(
        model=model, input=[*dumped(compacted.output), {"role": "user", "content": "RECALL"}]
    )
    assert f"one {mark} / two {mark} / three {mark} / " in answer.output_text
    assert answer.output_text.count("summary of:") == 3, "each holds the one before"


def test_a_chain_is_compacted_and_goes_on_where_it_was(client, model, mark):
    first = client.responses.create(model=model, input=f"one {mark}", instructions="be kind")
    second = client.responses.create(model=model, input="SAY two", previous_response_id=first.id)
    compacted = client.responses.compact(model=model, previous_response_id=second.id)
    assert parts(compacted.output) == ["user", "user", "compaction"]
    # Another branch of it is as it was.
    branch = client.responses.create(model=model, input="RECALL", previous_response_id=second.id)
    assert branch.output_text == f"you said: one {mark} / SAY two"
    window = dumped(compacted.output)
    third = client.responses.create(model=model, input=[*window, {"role": "user", "content": f"SAY {mark}"}])
    assert third.output_text == mark
    last = client.responses.create(model=model, input=f"RECALL {mark}", previous_response_id=third.id)
    lines = said(seen(f"RECALL {mark}")[-1])
    assert lines[:2] == [f"user: one {mark}", "user: SAY two"] and stands_for(lines[2], f"one {mark}")
    assert lines[3:] == [f"user: SAY {mark}", f"assistant: {mark}", f"user: RECALL {mark}"]
    # And the item alone, in a chain: what was said before it is not said again.
    alone = [window[-1], {"role": "user", "content": f"again {mark}"}]
    client.responses.create(model=model, input=alone, previous_response_id=last.id)
    lines = said(seen(f"again {mark}")[-1])
    assert not any(line.startswith("assistant") for line in lines)
    assert stands_for(lines[-2], f"one {mark}") and lines[-1] == f"user: again {mark}"


def test_what_is_wrong_with_an_item_is_told(client, model, mark):
    item = dumped(client.responses.compact(model=model, input=mark).output)[-1]
    content = item["encrypted_content"]
    with pytest.raises(openai.BadRequestError) as missing:
        client.responses.compact(model=model, previous_response_id="resp_none")
    assert missing.value.code == "previous_response_not_found"
    if LOGGED_IN:
        # The backend's own to judge.
        assert not content.startswith("cbc1.")
        return
    assert content.startswith("cbc1.") and mark not in content
    for wrong in [content[:-8], content[:20] + "AAAA" + content[24:], "gAAAA"]:
        with pytest.raises(openai.BadRequestError) as error:
            client.responses.create(model=model, input=[{**item, "encrypted_content": wrong}])
        assert error.value.code == "invalid_encrypted_content"


def test_a_conversation_begins_with_one(client, model, mark):
    items = dumped(client.responses.compact(model=model, input=f"one {mark}").output)
    made = client.conversations.create(items=items)
    answer = client.responses.create(model=model, conversation=made.id, input="RECALL")
    assert f"summary of: one {mark}" in answer.output_text


def test_failures_are_those_of_any_call(client, model, mark):
    with pytest.raises(openai.RateLimitError) as used_up:
        client.responses.compact(model=model, input=f"{mark} FAIL usage")
    assert used_up.value.code == "usage_limit_reached"


def test_a_background_response_goes_on_with_its_conversation(client, model, mark):
    made = client.conversations.create(items=[{"role": "user", "content": f"zero {mark}"}])
    response = client.responses.create(
        model=model, conversation=made.id, input=f"{mark} SLOW 10 100", background=True
    )
    assert response.conversation.id == made.id
    with pytest.raises(openai.BadRequestError) as locked:
        client.responses.create(model=model, conversation=made.id, input="x")
    assert locked.value.code == "conversation_locked"
    deadline = time.monotonic() + 60
    while response.status in {"queued", "in_progress"}:
        assert time.monotonic() < deadline, response
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    assert response.status == "completed"
    items = list(client.conversations.items.list(made.id, order="asc"))
    assert [item.content[0].text for item in items] == [
        f"zero {mark}",
        f"{mark} SLOW 10 100",
        response.output_text,
    ]
    assert items[-1].id == response.output[0].id
    recalled = client.responses.create(model=model, conversation=made.id, input="RECALL")
    assert recalled.output_text == f"you said: zero {mark} / {mark} SLOW 10 100"
