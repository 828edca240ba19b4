"""A client without state: the whole conversation with every request, on one thread with one cache key."""

from support import said, seen

TURNS = 20


def keys(bodies):
    return {body["prompt_cache_key"] for body in bodies}


def test_a_long_chat_conversation_has_one_cache_key(client, model, mark):
    messages = [{"role": "system", "content": f"be brief {mark}"}]
    for turn in range(TURNS):
        messages.append({"role": "user", "content": f"SAY answer {turn}"})
        if turn % 2:
            completion = client.chat.completions.create(model=model, messages=messages)
            # As the SDK's users do: the message itself, absent fields and all.
            messages.append(completion.choices[0].message)
            text = completion.choices[0].message.content
        else:
            chunks = client.chat.completions.create(model=model, messages=messages, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            messages.append({"role": "assistant", "content": text})
        assert text == f"answer {turn}"
    bodies = seen(mark)
    assert len(bodies) == TURNS and len(keys(bodies)) == 1
    expected = [f"developer: be brief {mark}"]
    for turn in range(TURNS):
        expected += [f"user: SAY answer {turn}", f"assistant: answer {turn}"]
    assert said(bodies[-1]) == expected[:-1]


def test_a_conversation_with_tools_has_one_cache_key(client, model, mark):
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    messages = [{"role": "user", "content": f"{mark} CALLTOOL look {{\"at\": 1}}"}]
    called = client.chat.completions.create(model=model, messages=messages, tools=tools).choices[0].message
    messages.append(called)
    messages.append({"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "42"})
    answer = client.chat.completions.create(model=model, messages=messages, tools=tools).choices[0].message
    assert answer.content == "tool said: 42"
    messages += [answer, {"role": "user", "content": "SAY done"}]
    assert client.chat.completions.create(model=model, messages=messages, tools=tools).choices[0].message.content == "done"
    assert len(keys(seen(mark))) == 1


def test_an_edited_conversation_begins_anew(client, model, mark):
    messages = [{"role": "user", "content": f"SAY one {mark}"}]
    first = client.chat.completions.create(model=model, messages=messages).choices[0].message
    edited = [*messages, {"role": "assistant", "content": "uno"}, {"role": "user", "content": "SAY two"}]
    client.chat.completions.create(model=model, messages=edited)
    kept = [*messages, first, {"role": "user", "content": "SAY three"}]
    client.chat.completions.create(model=model, messages=kept)
    bodies = seen(mark)
    assert [len(body["input"]) for body in bodies] == [1, 3, 3]
    assert bodies[0]["prompt_cache_key"] == bodies[2]["prompt_cache_key"] != bodies[1]["prompt_cache_key"]


def test_one_shots_with_the_same_long_instructions_share_a_cache_key(client, model, mark):
    instructions = f"{mark} Say which of the two it is, and nothing else. " * 240
    for call in range(12):
        messages = [{"role": "system", "content": instructions}, {"role": "user", "content": f"SAY {call}"}]
        completion = client.chat.completions.create(model=model, messages=messages)
        assert completion.choices[0].message.content == str(call)
        usage = completion.usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.completion_tokens == 1
    bodies = seen(mark)
    assert len(bodies) == 12 and len(keys(bodies)) == 2
    assert all(len(body["input"]) == 2 for body in bodies)
