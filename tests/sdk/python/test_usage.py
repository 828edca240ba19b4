"""What the account and this bridge have used, and a window that is used up: the account's own is the logged-in face's."""

import time

import openai
import pytest
import support
from support import seen, wait_until, wait_until_idle

logged_in = pytest.mark.skipif(not support.STANDIN_URL.startswith("https:"), reason="a plain provider has no windows")


def usage():
    url = f"{support.BASE_URL.rstrip('/')}/usage"
    return support.get_json(url, {"Authorization": f"Bearer {support.API_KEY}"})


def test_calls_and_tokens_are_counted_by_model(client, model, mark):
    before = usage()["by_model"].get(model, {"calls": 0, "output_tokens": 0})
    response = client.responses.create(model=model, input=f"SAY {mark} one two")
    wait_until_idle()
    after = usage()
    assert after["by_model"][model]["calls"] == before["calls"] + 1
    assert after["by_model"][model]["output_tokens"] == before["output_tokens"] + response.usage.output_tokens
    assert list(after["by_key"]) == ["demo"]


@logged_in
def test_a_used_up_window_is_a_rate_limit_error_with_the_time_of_its_reset(client, model, mark):
    client.responses.create(model=model, input=f"WINDOW 100 3 SAY {mark} last")
    wait_until("the window is known to be full", lambda: usage()["account"]["state"] == "used_up")
    with pytest.raises(openai.RateLimitError) as refused:
        client.responses.create(model=model, input=f"SAY {mark} refused")
    assert refused.value.code == "usage_limit_reached"
    wait = int(refused.value.response.headers["retry-after"])
    assert 1 <= wait <= 3
    assert not seen(f"{mark} refused")
    time.sleep(wait)
    raw = client.responses.with_raw_response.create(model=model, input=f"SAY {mark} anew")
    assert raw.parse().output_text == f"{mark} anew"
    assert 0 <= float(raw.headers["x-codex-bridge-account-secondary-used-percent"]) <= 100
    assert usage()["account"]["plan"] == "plus"
