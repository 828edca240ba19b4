"""Files and batches: uploaded, run to the end, read, cancelled, refused."""

import json
import os

import openai
import pytest
from support import seen_once, wait_until

ENDINGS = ("completed", "failed", "expired", "cancelled")


def row(custom_id, body, url="/v1/responses"):
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def upload(client, rows):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return client.files.create(file=("rows.jsonl", content), purpose="batch")


def begin(client, file, endpoint="/v1/responses", **more):
    return client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more
    )


def ended(client, batch):
    wait_until("the batch has ended", lambda: client.batches.retrieve(batch.id).status in ENDINGS)
    return client.batches.retrieve(batch.id)


def results(client, file_id):
    lines = [json.loads(line) for line in client.files.content(file_id).text.splitlines()]
    by_id = {line["custom_id"]: line for line in lines}
    assert len(by_id) == len(lines)
    return by_id


def test_a_file_is_uploaded_listed_read_and_deleted(client):
    file = client.files.create(
        file=("rows.jsonl", b"{}\n" * 100_000), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (file.filename, file.bytes, file.purpose, file.status) == ("rows.jsonl", 300_000, "batch", "processed")
    assert file.expires_at in (file.created_at + 3600, file.created_at + 3601)
    assert client.files.retrieve(file.id) == file
    other = client.files.create(file=b"{}", purpose="batch")
    listed = [entry.id for entry in client.files.list(purpose="batch", limit=1)]
    assert listed.index(other.id) < listed.index(file.id)
    content = client.files.content(file.id)
    assert content.read() == b"{}\n" * 100_000
    for one in (file, other):
        assert client.files.delete(one.id).deleted
    for call in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(openai.NotFoundError) as missing:
            call(file.id)
        assert missing.value.code == "file_not_found"
    with pytest.raises(openai.BadRequestError, match="purpose 'assistants'"):
        client.files.create(file=b"{}", purpose="assistants")


def test_a_batch_is_run_to_its_end(client, model, mark):
    rows = [row(f"row-{n}", {"model": model, "input": f"SAY {mark}-{n}"}) for n in range(5)]
    rows.append(row("bad", {"model": "none", "input": "x"}))
    file = upload(client, rows)
    batch = begin(client, file, metadata={"task": mark})
    assert (batch.status, batch.endpoint, batch.metadata) == ("validating", "/v1/responses", {"task": mark})
    done = ended(client, batch)
    assert done.status == "completed", done
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (6, 5, 1)
    good = results(client, done.output_file_id)
    for n in range(5):
        answer = good[f"row-{n}"]["response"]
        text = answer["body"]["output"][-1]["content"][0]["text"]
        assert (answer["status_code"], text) == (200, f"{mark}-{n}")
        seen_once(f"SAY {mark}-{n}")
    failed = results(client, done.error_file_id)
    assert failed["bad"]["response"]["body"]["error"]["code"] == "model_not_found"
    used = sum(line["response"]["body"]["usage"]["total_tokens"] for line in good.values())
    assert done.usage.total_tokens == used > 0
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"
    assert next(iter(client.batches.list())).id == batch.id
    with pytest.raises(openai.ConflictError) as over:
        client.batches.cancel(batch.id)
    assert over.value.code == "batch_not_cancellable"


@pytest.mark.parametrize(
    "endpoint, body, text",
    [
        ("/v1/chat/completions", lambda mark: {"messages": [{"role": "user", "content": f"SAY {mark}"}]},
         lambda body: body["choices"][0]["message"]["content"]),
        ("/v1/completions", lambda mark: {"prompt": f"SAY {mark}"}, lambda body: body["choices"][0]["text"]),
    ],
    ids=["chat", "legacy"],
)
def test_the_other_endpoints_too(client, model, mark, endpoint, body, text):
    file = upload(client, [row("one", {"model": model, **body(mark)}, endpoint)])
    done = ended(client, begin(client, file, endpoint))
    line = results(client, done.output_file_id)["one"]
    assert text(line["response"]["body"]) == mark


def test_a_wrong_input_fails_with_its_lines(client):
    file = upload(client, [row("a", {"input": "x", "stream": True}), row("b", {}, "/v1/chat/completions")])
    failed = ended(client, begin(client, file))
    assert failed.status == "failed"
    told = [(error.line, error.code) for error in failed.errors.data]
    assert told == [(1, "unsupported_parameter"), (2, "invalid_url")]
    with pytest.raises(openai.BadRequestError) as missing:
        client.batches.create(input_file_id="file-none", endpoint="/v1/responses", completion_window="24h")
    assert missing.value.param == "input_file_id"


def test_a_cancelled_batch_tells_the_rest(client, model):
    rows = [row(f"row-{n}", {"model": model, "input": "SLOW 400 50"}) for n in range(8)]
    batch = begin(client, upload(client, rows))
    wait_until("it runs", lambda: client.batches.retrieve(batch.id).status == "in_progress")
    assert client.batches.cancel(batch.id).status == "cancelling"
    done = ended(client, batch)
    assert (done.status, done.output_file_id) == ("cancelled", None)
    rest = results(client, done.error_file_id)
    assert len(rest) == 8
    assert {line["error"]["code"] for line in rest.values()} == {"batch_cancelled"}


def test_a_batch_is_its_keys_alone(client, model, mark):
    other = client.with_options(api_key=os.environ["KEY_NARROW"])
    file = upload(client, [row("one", {"model": model, "input": f"SAY {mark}"})])
    batch = begin(client, file)
    for call, wanted in ((other.batches.retrieve, batch.id), (other.batches.cancel, batch.id), (other.files.content, file.id)):
        with pytest.raises(openai.NotFoundError):
            call(wanted)
    # What a key may have holds for its rows.
    narrow = upload(other, [row("one", {"model": model, "input": "x"})])
    done = ended(other, begin(other, narrow))
    assert done.request_counts.failed == 1
    error = results(other, done.error_file_id)["one"]["response"]
    assert (error["status_code"], error["body"]["error"]["code"]) == (403, "model_not_found")
    ended(client, batch)
