"""Keys with limits of their own: what an SDK makes of them."""

import os

import openai
import pytest
import support
from support import seen, seen_once, wait_until_idle

NARROW_MODEL = os.environ["NARROW_MODEL"]


@pytest.fixture
def with_key():
    """A client of the key that an environment variable holds."""

    def make(variable):
        key = os.environ[variable]
        return openai.OpenAI(base_url=support.BASE_URL, api_key=key, max_retries=0, timeout=60)

    return make


def test_a_used_up_rate_is_a_rate_limit_error(with_key, model, mark):
    rated = with_key("KEY_RATED")
    first = rated.responses.with_raw_response.create(model=model, input=f"SAY {mark} one")
    assert first.parse().output_text == f"{mark} one"
    headers = first.headers
    assert headers["x-ratelimit-limit-requests"] == "3"
    assert headers["x-ratelimit-remaining-requests"] == "2"
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert headers["x-ratelimit-limit-tokens"] == "1000000"
    # What was estimated has been corrected with what was used.
    assert int(headers["x-ratelimit-remaining-tokens"]) >= 1000000 - first.parse().usage.total_tokens
    messages = [{"role": "user", "content": f"SAY {mark} two"}]
    chunks = rated.chat.completions.with_raw_response.create(model=model, messages=messages, stream=True)
    assert chunks.headers["x-ratelimit-remaining-requests"] == "1"
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks.parse() if chunk.choices)
    assert said == f"{mark} two"
    rated.responses.create(model=model, input=f"SAY {mark} three")

    refused = f"{mark}refused"
    calls = [
        lambda: rated.responses.create(model=model, input=refused),
        lambda: rated.responses.create(model=model, input=refused, stream=True),
        lambda: rated.chat.completions.create(model=model, messages=[{"role": "user", "content": refused}]),
    ]
    for call in calls:
        with pytest.raises(openai.RateLimitError) as caught:
            call()
        error = caught.value
        assert (error.code, error.type) == ("rate_limit_exceeded", "rate_limit_error")
        assert "requests per min (RPM): Limit 3" in error.message
        assert 1 <= int(error.response.headers["retry-after"]) <= 20
        assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert seen(refused) == []
    wait_until_idle()


def test_a_key_has_its_models_alone(client, with_key, mark):
    narrow = with_key("KEY_NARROW")
    assert [model.id for model in narrow.models.list()] == [NARROW_MODEL]
    others = [model.id for model in client.models.list() if model.id != NARROW_MODEL]
    assert others
    with pytest.raises(openai.NotFoundError):
        narrow.models.retrieve(others[0])
    for call in (
        lambda: narrow.responses.create(model=others[0], input=mark),
        lambda: narrow.chat.completions.create(model=others[0], messages=[{"role": "user", "content": mark}]),
    ):
        with pytest.raises(openai.PermissionDeniedError) as caught:
            call()
        assert (caught.value.status_code, caught.value.code) == (403, "model_not_found")
    assert seen(mark) == []
    # A request that names none gets the key's.
    response = narrow.responses.create(input=f"SAY {mark} yes")
    assert (response.model, response.output_text) == (NARROW_MODEL, f"{mark} yes")
    assert seen_once(mark)["model"] == NARROW_MODEL


def test_a_priority_is_taken_from_the_header(client, model, mark):
    for priority in ("batch", "interactive"):
        headers = {"x-codex-bridge-priority": priority}
        response = client.responses.create(model=model, input=f"SAY {mark}", extra_headers=headers)
        assert response.output_text == mark
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=model, input=mark, extra_headers={"x-codex-bridge-priority": "now"})
    assert caught.value.param == "x-codex-bridge-priority"
    wait_until_idle()
