"""For schemathesis: requests that would fail at once get past the door, so that what is behind it is tried too."""

import json
import os
import random
import urllib.request

import schemathesis
from schemathesis.generation.meta import TestPhase
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

# Each choice is a turn of its own.
MOST_CHOICES = 3
# Errors that a model which only echoes cannot be kept from: what was asked for is no echo.
OF_THE_MODEL = {"invalid_structured_output", "tool_choice_not_honoured", "invalid_tool_input"}
# The same in each run.
DICE = random.Random(1)


def call(path, body=None, kind="application/json"):
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + path,
        data=body,
        headers={
            "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"],
            "Content-Type": kind,
        },
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def upload(text):
    parts = [
        'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch',
        'Content-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n' + text,
    ]
    form = "".join(f"--b\r\n{part}\r\n" for part in parts) + "--b--\r\n"
    return call("/files", form.encode(), "multipart/form-data; boundary=b")["id"]


def kept():
    """What is there to be asked for: by how a path begins, what stands in it."""
    message = {"type": "message", "role": "user", "content": "x"}
    conversation = call("/conversations", {"items": [message]})["id"]
    items = call(f"/conversations/{conversation}/items")["data"]
    said = [{"role": "user", "content": "x"}]
    completion = call("/chat/completions", {"messages": said, "store": True})["id"]
    responses = [call("/responses", {"input": "x", "background": background})["id"] for background in (False, True)]
    row = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"input": "x"}}
    file = upload(json.dumps(row))
    batch = {"input_file_id": file, "endpoint": "/v1/responses", "completion_window": "24h"}
    return {
        "/v1/files": {"id": [file]},
        "/v1/batches": {"id": [call("/batches", batch)["id"]]},
        "/v1/responses": {"id": responses},
        "/v1/conversations": {"id": [conversation], "item": [items[0]["id"]]},
        "/v1/chat/completions": {"id": [completion]},
    }


MODEL = call("/models")["data"][0]["id"]
KEPT = kept()


@schemathesis.check
def no_server_error(context, response, case):
    """`not_a_server_error`, but for what the stand-in's model is at fault for."""
    if response.status_code < 500 or response.status_code in (502, 503) and code(response) in OF_THE_MODEL:
        return
    raise AssertionError(f"{response.status_code}: {response.text[:500]}")


@schemathesis.check
def wrong_data_rejection(context, response, case):
    """`negative_data_rejection`, but for forms: their fields are texts, and what is wrong as JSON may be right there."""
    if case.media_type != "multipart/form-data":
        negative_data_rejection(context, response, case)


def code(response):
    try:
        return response.json()["error"]["code"]
    except (KeyError, TypeError, ValueError):
        return None


# What stands for entries that are objects, under what was made up for them.
ENTRIES = {
    "messages": {"role": "user", "content": "x"},
    "input": {"role": "user", "content": "x"},
    "functions": {"name": "f"},
    "tools": {"type": "custom", "name": "f", "custom": {"name": "f"}},
}
# What stands for texts that are to be one of a few words which no schema has.
WORDS = {"model": MODEL, "tool_choice": "auto", "function_call": "auto", "reasoning_effort": "low"}

# The same in heads; none: not sent.
HEADERS = {"x-codex-bridge-max-wait": "10s", "x-codex-bridge-task-class": None, "x-codex-bridge-dry-run": "false"}


@schemathesis.hook
def before_call(context, case, kwargs):
    """Four in five requests. What has the wrong type, or too much of it, stays wrong."""
    if DICE.random() < 0.2:
        return
    if case.method != "DELETE" and is_fuzzed(case.meta):
        be_there(case)
    for name in [name for name in case.headers or {} if name.lower() in HEADERS]:
        word = HEADERS[name.lower()]
        if word is None:
            del case.headers[name]
        else:
            case.headers[name] = word
    if isinstance(case.body, dict):
        case.body = plausible(case.body)


def is_fuzzed(meta):
    """And nothing is wrong with it on purpose. The stateful phase has ids of its own."""
    return meta and meta.phase.name == TestPhase.FUZZING and meta.generation.mode == GenerationMode.POSITIVE


def be_there(case):
    """Ids of what there is, where the path has any."""
    for start, names in KEPT.items():
        if case.path.startswith(start + "/{"):
            for name in set(names) & set(case.path_parameters):
                case.path_parameters[name] = DICE.choice(names[name])


def plausible(body):
    """A model that there is, messages that have a role, few choices."""
    body = dict(body)
    for name, plain in ENTRIES.items():
        entries = body.get(name)
        if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
            body[name] = [{**entry, **plain} for entry in entries[:1]] or [plain]
    for name, word in WORDS.items():
        if isinstance(body.get(name), (str, dict)):
            body[name] = word
    if isinstance(body.get("previous_response_id"), str):
        del body["previous_response_id"]
    reasoning = body.get("reasoning")
    if isinstance(reasoning, dict) and isinstance(reasoning.get("effort"), str):
        body["reasoning"] = {**reasoning, "effort": "low"}
    if isinstance(body.get("n"), int) and MOST_CHOICES < body["n"] <= 128:
        body["n"] = MOST_CHOICES
    return body
