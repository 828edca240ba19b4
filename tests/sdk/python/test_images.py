import base64

import openai
import pytest
from support import data_url, png, seen, seen_once

RED = png(255, 0, 0)


def responses_input(mark, url):
    content = [{"type": "input_text", "text": mark}, {"type": "input_image", "image_url": url, "detail": "auto"}]
    return [{"role": "user", "content": content}]


def chat_messages(mark, url):
    content = [{"type": "text", "text": mark}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": content}]


def image_seen(mark):
    content = seen_once(mark)["input"][0]["content"]
    assert [part["type"] for part in content] == ["input_text", "input_image"]
    head, data = content[1]["image_url"].split(",")
    assert head == "data:image/png;base64"
    return base64.b64decode(data)


def test_responses_image(client, model, mark):
    client.responses.create(model=model, input=responses_input(mark, data_url(RED)))
    assert image_seen(mark) == RED


def test_chat_image(client, model, mark):
    client.chat.completions.create(model=model, messages=chat_messages(mark, data_url(RED)))
    assert image_seen(mark) == RED


BAD = {
    "not base64": "data:image/png;base64,$$$$",
    "cut short": data_url(RED[: len(RED) // 2]),
    "a broken checksum": data_url(RED[:-20] + b"\0\0\0\0" + RED[-16:]),
    "not an image": data_url(b"just some text"),
    "nothing": "data:image/png;base64,",
    "text by its type": data_url(b"hello", "text/plain"),
    "plain http": "http://127.0.0.1:9/a.png",
    "a loopback address": "https://127.0.0.1:9/a.png",
    "a file": "file:///etc/passwd",
    "no address": "what",
}


@pytest.mark.parametrize("url", BAD.values(), ids=BAD)
def test_a_bad_image_is_refused(client, model, mark, url):
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(model=model, input=responses_input(mark, url))
    assert raised.value.type == "invalid_request_error"
    assert raised.value.param == "input[0].content[1].image_url"
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=model, messages=chat_messages(mark, url))
    assert raised.value.param == "messages[0].content[1].image_url.url"
    assert seen(mark) == []
