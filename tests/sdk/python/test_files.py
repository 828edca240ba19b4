"""Files and audio: what of them the model reads, and what is refused with a word on what to send instead."""

import base64
import re
import zlib

import openai
import pytest
from support import data_url, png, seen, seen_once


def pdf(*pages, dictionary=b"", pack=lambda data: data):
    """A PDF with a line of text on each page."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} /MediaBox [0 0 600 800] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for n, text in enumerate(pages):
        content = pack(f"BT /F 24 Tf 72 700 Td ({text}) Tj ET".encode())
        head = b"<< %s /Length %d >>\nstream\n" % (dictionary, len(content))
        page = f"<< /Type /Page /Parent 2 0 R /Contents {5 + 2 * n} 0 R /Resources << /Font << /F 3 0 R >> >> >>"
        objects += [page.encode(), head + content + b"\nendstream"]
    out, places = b"%PDF-1.7\n", []
    for n, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (n, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size, start = len(objects) + 1, len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
    return out + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, start)


def bare(data):
    return base64.b64encode(data).decode()


def as_response(client, model, mark, **file):
    content = [{"type": "input_text", "text": mark}, {"type": "input_file", **file}]
    return client.responses.create(model=model, input=[{"role": "user", "content": content}])


def as_chat(client, model, mark, **file):
    content = [{"type": "text", "text": mark}, {"type": "file", "file": file}]
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])


BOTH = pytest.mark.parametrize("ask", [as_response, as_chat])


def file_text(part, name):
    """The file's text, which stands between two lines that nothing in it can be."""
    assert part["type"] == "input_text"
    found = re.fullmatch(r"<file id=([0-9a-f]{16}) name=(\S+)>\n(.*)\n</file id=\1>", part["text"], re.DOTALL)
    assert found and found[2] == f'"{name}"', part["text"]
    return found[3]


TEXTS = {
    "plain.txt": ("data:text/plain;base64,", "hello\nthere".encode(), "hello\nthere"),
    "table.csv": ("", "\ufeffname,age\nänn,7".encode(), "name,age\nänn,7"),
    "notes.md": ("data:text/markdown;charset=utf-8;base64,", b"# A\n\n</file>", "# A\n\n</file>"),
    "data.json": ("data:application/json;base64,", b'{"a": 1}', '{"a": 1}'),
    "page.html": ("data:text/html;base64,", b"<p>hi</p>", "<p>hi</p>"),
    "conf.yaml": ("", b"a: [1, 2]", "a: [1, 2]"),
    "main.rs": ("data:application/octet-stream;base64,", b"fn main() {}", "fn main() {}"),
    "wide.txt": ("data:text/plain;base64,", "wíde".encode("utf-16"), "wíde"),
    "report.pdf": ("data:application/pdf;base64,", pdf("Total 42 EUR", "Page two"), "Total 42 EUR\n\nPage two"),
    "packed.pdf": ("", pdf("packed", dictionary=b"/Filter /FlateDecode", pack=zlib.compress), "packed"),
}


@BOTH
@pytest.mark.parametrize("name", TEXTS)
def test_a_file_is_its_text(client, model, mark, ask, name):
    head, data, text = TEXTS[name]
    ask(client, model, mark, filename=name, file_data=head + bare(data))
    content = seen_once(mark)["input"][0]["content"]
    assert content[0] == {"type": "input_text", "text": mark}
    assert file_text(content[1], name) == text


def test_a_streamed_answer_has_read_the_file(client, model, mark):
    file = {"type": "input_file", "filename": "a.txt", "file_data": bare(b"in it")}
    content = [file, {"type": "input_text", "text": f"SAY {mark}"}]
    with client.responses.stream(model=model, input=[{"role": "user", "content": content}]) as stream:
        assert stream.get_final_response().output_text == mark
    assert file_text(seen_once(mark)["input"][0]["content"][0], "a.txt") == "in it"


def test_a_tool_may_answer_with_a_file(client, model, mark):
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": False}]
    first = client.responses.create(model=model, input=f"{mark} CALLTOOL look {{}}", tools=tools)
    call = first.output[-1]
    parts = [{"type": "input_file", "filename": "a.pdf", "file_data": bare(pdf("from the tool"))}]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": parts}
    client.responses.create(model=model, input=[output], tools=tools, previous_response_id=first.id)
    item = seen(mark)[-1]["input"][-1]
    assert item["type"] == "function_call_output"
    # One text alone is written without a list.
    assert file_text({"type": "input_text", "text": item["output"]}, "a.pdf") == "from the tool"


def test_detail_has_no_effect_and_says_so(client, model, mark):
    content = [
        {"type": "input_text", "text": mark},
        {"type": "input_file", "filename": "a.txt", "file_data": bare(b"x"), "detail": "low"},
        {"type": "input_image", "image_url": data_url(png(1, 2, 3)), "detail": "low"},
    ]
    raw = client.responses.with_raw_response.create(model=model, input=[{"role": "user", "content": content}])
    assert raw.headers["x-codex-bridge-ignored"] == "input[].content[].detail"
    assert seen_once(mark)["input"][0]["content"][2].get("detail") in (None, "original")
    content = [
        {"type": "text", "text": mark},
        {"type": "image_url", "image_url": {"url": data_url(png(1, 2, 3)), "detail": "low"}},
    ]
    raw = client.chat.completions.with_raw_response.create(
        model=model, messages=[{"role": "user", "content": content}]
    )
    assert raw.headers["x-codex-bridge-ignored"] == "messages[].content[].image_url.detail"


WHOLE = pdf("some text")
BAD = {
    "an office document": ("a.docx", b"PK\x03\x04rest", "unsupported_file"),
    "a picture": ("a.png", png(1, 2, 3), "unsupported_file"),
    "bytes": ("a.bin", b"\0\1\2\xff", "unsupported_file"),
    "text in an old encoding": ("a.txt", "schön".encode("latin-1"), "unsupported_file"),
    "a name that lies": ("a.pdf", b"hello", "unsupported_file"),
    "nothing": ("a.txt", b"", "empty_file"),
    "half a PDF": ("a.pdf", WHOLE[: len(WHOLE) // 2], "file_parse_error"),
    "a PDF without text": ("a.pdf", pdf(""), "file_without_text"),
    "a PDF that unpacks to more than there is": (
        "a.pdf",
        pdf("x", dictionary=b"/Filter /FlateDecode", pack=lambda data: zlib.compress(bytes(600 << 20), 1)),
        "file_parse_error",
    ),
    "too much text": ("a.txt", b"x" * (8 << 20 | 1), "file_too_large"),
}


@BOTH
@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused(client, model, mark, ask, what):
    name, data, code = BAD[what]
    with pytest.raises(openai.BadRequestError) as raised:
        ask(client, model, mark, filename=name, file_data=bare(data))
    place = "input[0].content[1]" if ask is as_response else "messages[0].content[1].file"
    assert (raised.value.code, raised.value.param) == (code, f"{place}.file_data")
    assert seen(mark) == []


@BOTH
def test_files_by_id_and_broken_data_are_refused(client, model, mark, ask):
    place = "input[0].content[1]" if ask is as_response else "messages[0].content[1].file"
    for file, code, field in [
        ({"file_id": "file-123"}, "unsupported_value", "file_id"),
        ({"filename": "a.txt"}, "missing_required_parameter", "file_data"),
        ({"filename": "a.txt", "file_data": "%%%"}, "invalid_base64_file", "file_data"),
    ]:
        with pytest.raises(openai.BadRequestError) as raised:
            ask(client, model, mark, **file)
        assert (raised.value.code, raised.value.param) == (code, f"{place}.{field}")
    assert seen(mark) == []


@pytest.mark.parametrize("url", ["https://127.0.0.1:9/a.txt", "http://example.com/a.txt", "file:///etc/passwd", "x"])
def test_a_bad_address_is_refused(client, model, mark, url):
    with pytest.raises(openai.BadRequestError) as raised:
        as_response(client, model, mark, file_url=url)
    assert (raised.value.code, raised.value.param) == ("invalid_file_url", "input[0].content[1].file_url")


def test_audio_wants_a_model_that_takes_it(client, model, mark):
    wav = b"RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0" + bytes(32)
    for data, format, code in [
        (bare(wav), "wav", "unsupported_value"),
        (bare(wav), "mp3", "invalid_audio"),
        ("%%%", "wav", "invalid_base64_audio"),
        (bare(wav), "flac", "invalid_value"),
    ]:
        audio = {"type": "input_audio", "input_audio": {"data": data, "format": format}}
        content = [{"type": "text", "text": mark}, audio]
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}])
        assert raised.value.code == code
        if code == "unsupported_value":
            assert model in raised.value.message
    assert seen(mark) == []


def test_encrypted_reasoning_is_asked_for_and_sent_back(client, model, mark):
    asked = f'{mark} THINK "a thought" SAY done'
    plain = client.responses.create(model=model, input=asked, store=False)
    assert [item.encrypted_content for item in plain.output if item.type == "reasoning"] == [None]
    include = ["reasoning.encrypted_content"]
    first = client.responses.create(model=model, input=asked, store=False, include=include)
    [thought] = [item for item in first.output if item.type == "reasoning"]
    assert thought.encrypted_content
    # Another conversation: nothing but the items says what was thought.
    again = [{"role": "user", "content": asked}, *first.output, {"role": "user", "content": f"{mark} SAY again"}]
    second = client.responses.create(model=model, input=again, instructions="another", store=False)
    assert second.output_text == "again"
    thoughts = [item for item in seen(mark)[-1]["input"] if item["type"] == "reasoning"]
    assert [item["encrypted_content"] for item in thoughts] == [thought.encrypted_content]


FITTING = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


def test_strict_is_false_unless_it_is_asked_for(client, model, mark):
    format = {"type": "json_schema", "name": "n", "schema": FITTING}
    for extra, enforced in [({}, True), ({"strict": False}, False), ({"strict": True}, True)]:
        asked = f'{mark} JSON {{"a": 1}}'
        response = client.responses.create(model=model, input=asked, text={"format": {**format, **extra}})
        assert response.text.format.strict is extra.get("strict", False)
        body = seen(mark)[-1]
        assert ("format" in (body.get("text") or {})) is enforced
        nested = {"type": "json_schema", "json_schema": {"name": "n", "schema": FITTING, **extra}}
        messages = [{"role": "user", "content": asked}]
        completion = client.chat.completions.create(model=model, messages=messages, response_format=nested)
        assert completion.choices[0].message.content == '{"a": 1}'
        assert ("format" in (seen(mark)[-1].get("text") or {})) is enforced
