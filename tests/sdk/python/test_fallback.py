"""A bridge that nobody is logged in to, with the bridge under test as its fallback."""

import os
import subprocess

import openai
import pytest
import support
from support import seen_once, wait_until


@pytest.fixture(scope="module")
def logged_out(tmp_path_factory):
    """A client of a second bridge, whose Codex home is empty."""
    place = tmp_path_factory.mktemp("logged-out")
    (place / "codex").mkdir()
    config = place / "config.toml"
    config.write_text(
        f"""
server.port = 0
state.dir = "{place}/state"
app_server.user_codex_home = "{place}/codex"
auth.tokens.second = "second-key"
fallback.base_url = "{support.BASE_URL}"
fallback.api_key = "{support.API_KEY}"
"""
    )
    command = [os.environ["BRIDGE_BIN"], "serve", "--config", str(config)]
    with open(place / "out", "wb") as out, open(place / "log", "wb") as log:
        bridge = subprocess.Popen(command, stdout=out, stderr=log)
    try:

        def listening():
            assert bridge.poll() is None, (place / "log").read_text()
            lines = (place / "out").read_text().splitlines()
            return next((line.split()[-1] for line in lines if line.startswith("listening on http")), None)

        base_url = wait_until("the second bridge listens", listening) + "/v1"
        with openai.OpenAI(base_url=base_url, api_key="second-key", max_retries=0, timeout=60) as client:
            yield client
    finally:
        bridge.terminate()
        assert bridge.wait(timeout=30) == 0


def test_both_apis_are_answered_by_the_other_bridge(logged_out, mark):
    raw = logged_out.responses.with_raw_response.create(model="gpt-6-luna", input=f"SAY {mark} one")
    assert raw.headers["x-codex-bridge-fallback"] == "logged_out"
    assert raw.parse().output_text == f"{mark} one"
    messages = [{"role": "user", "content": f"SAY {mark} two"}]
    raw = logged_out.chat.completions.with_raw_response.create(model="gpt-6-luna", messages=messages)
    assert raw.headers["x-codex-bridge-fallback"] == "logged_out"
    assert raw.parse().choices[0].message.content == f"{mark} two"
    seen_once(f"{mark} one")
    seen_once(f"{mark} two")


def test_both_apis_are_streamed_through(logged_out, mark):
    events = list(logged_out.responses.create(model="gpt-6-luna", input=f"SAY {mark} a b c", stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == f"{mark} a b c"
    assert events[-1].type == "response.completed"
    messages = [{"role": "user", "content": f"SAY {mark} d e f"}]
    chunks = list(logged_out.chat.completions.create(model="gpt-6-luna", messages=messages, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == f"{mark} d e f"


def test_a_conversation_that_was_begun_elsewhere_is_not_taken(logged_out, mark):
    first = logged_out.responses.create(model="gpt-6-luna", input=f"SAY {mark}")
    with pytest.raises(openai.AuthenticationError) as refused:
        logged_out.responses.create(model="gpt-6-luna", input="and?", previous_response_id=first.id)
    assert refused.value.code == "login_required"
    assert "x-codex-bridge-fallback" not in refused.value.response.headers
