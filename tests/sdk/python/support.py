"""What the tests share: the stand-in's record of what the model saw, the bridge's health, bounded waits."""

import base64
import json
import os
import ssl
import struct
import time
import urllib.parse
import urllib.request
import zlib

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8787/v1")
API_KEY = os.environ.get("OPENAI_API_KEY", "demo")
STANDIN_URL = os.environ.get("STANDIN_URL", "")
# The stand-in's address may hold the path of its API.
REQUESTS_URL = urllib.parse.urljoin(STANDIN_URL, "/requests")
STANDIN_CA = os.environ.get("STANDIN_CA")

# Longest wait for something that is expected to become so; a failed test's time, never a passed one's.
WAIT_SECONDS = 10


def get_json(url, headers=None, ca=None):
    context = ssl.create_default_context(cafile=ca) if url.startswith("https:") else None
    request = urllib.request.Request(url, headers=headers or {})
    with urllib.request.urlopen(request, timeout=WAIT_SECONDS, context=context) as response:
        return json.load(response)


def seen(mark):
    """The upstream bodies that hold `mark` and that the model answered, oldest first, each with its whole
    conversation as `input`: over a WebSocket a body carries only what is new."""
    entries = get_json(REQUESTS_URL, ca=STANDIN_CA)
    bodies = [{**entry["body"], "input": entry["input"]} for entry in entries]
    answered = [body for body in bodies if body.get("generate") is not False]
    return [body for body in answered if mark in json.dumps(body, ensure_ascii=False)]


def seen_once(mark):
    bodies = seen(mark)
    assert len(bodies) == 1, f"{len(bodies)} upstream requests hold {mark}"
    return bodies[0]


def said(body):
    """`role: text` of each message the model saw, and the type of every other item."""
    lines = []
    for item in body["input"]:
        if item.get("type", "message") == "message":
            text = "|".join(part.get("text", part["type"]) for part in item["content"])
            lines.append(f"{item['role']}: {text}")
        else:
            lines.append(item["type"])
    return lines


def offered(body):
    """The tools the model was offered: some models get them in an item, grouped by namespace."""
    wrapped = [tool for item in body["input"] if item["type"] == "additional_tools" for tool in item["tools"]]
    tools = [*(body.get("tools") or []), *wrapped]
    return [one for tool in tools for one in (tool["tools"] if tool["type"] == "namespace" else [tool])]


def native_loop(mark, rounds, further=0):
    """The bodies of a tool loop of so many rounds: one thread and one turn, each body the one before it with
    the model's own items and the outputs after it; and nothing of it is left in the bridge. `further` requests
    came after it."""
    bodies = seen(mark)
    assert len(bodies) == rounds + 1 + further, f"{len(bodies)} upstream requests for {rounds} rounds"
    bodies = bodies[: rounds + 1]
    for place in ("thread_id", "turn_id"):
        assert len({body["client_metadata"][place] for body in bodies}) == 1, f"not one {place}"
    assert len({body["prompt_cache_key"] for body in bodies}) == 1
    for earlier, later in zip(bodies, bodies[1:]):
        assert offered(later) == offered(earlier) and later.get("instructions") == earlier.get("instructions")
        known = len(earlier["input"])
        assert later["input"][:known] == earlier["input"], "the prefix changed"
        new = [item for item in later["input"][known:] if item["type"] != "reasoning"]
        calls = [item["call_id"] for item in new if item["type"] == "function_call"]
        outputs = [item["call_id"] for item in new if item["type"] == "function_call_output"]
        assert calls and sorted(calls) == sorted(outputs) and len(new) == 2 * len(calls), new
    wait_until_idle()
    return bodies


def input_tokens(body):
    """What the stand-in charges for a body: a quarter of its bytes."""
    compact = json.dumps(body["input"], ensure_ascii=False, separators=(",", ":"))
    instructions = body.get("instructions") or ""
    return (len(compact.encode()) + len(instructions.encode())) // 4


def forget_requests():
    """Has the stand-in forget what it saw."""
    request = urllib.request.Request(REQUESTS_URL, method="DELETE")
    context = ssl.create_default_context(cafile=STANDIN_CA) if STANDIN_CA else None
    urllib.request.urlopen(request, timeout=WAIT_SECONDS, context=context).close()


def health():
    return get_json(f"{BASE_URL.rstrip('/')}/health", {"Authorization": f"Bearer {API_KEY}"})


def wait_until(what, look):
    """Polls `look` until it gives something true; fails after the bound."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < until, f"not within {WAIT_SECONDS} s: {what}"
        time.sleep(0.02)


def wait_until_idle():
    wait_until("all slots free", lambda: health()["slots"]["in_use"] == 0)


def held_turns():
    """How many turns wait for their tools' outputs."""
    return health()["continuation"]["held_turns"]


def png(red, green, blue, size=3):
    """A real PNG of one colour."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    rows = (b"\x00" + bytes([red, green, blue]) * size) * size
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def data_url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
