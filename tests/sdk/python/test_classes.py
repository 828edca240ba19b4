"""Task classes and dry runs, through the SDK's own ways to give a header, a query and metadata."""

import openai
import pytest
from support import get_json, health, said, seen, seen_once, wait_until, BASE_URL, API_KEY

HEADER = "x-codex-bridge-task-class"
TRACE = {"x-codex-bridge-trace": "1"}


@pytest.fixture(scope="module")
def quick_effort(model):
    """The effort that the quick classes have with the model."""
    headers = {"Authorization": f"Bearer {API_KEY}"}
    efforts = get_json(f"{BASE_URL}/models/{model}?details=true", headers)["details"]["efforts"]
    return next((effort for effort in ("minimal", "low") if effort in efforts), None)


def figures(name):
    return health()["task_classes"][name]


def test_a_class_fills_in_what_the_request_leaves_open(client, model, mark, quick_effort):
    before = figures("normalization")
    answer = client.responses.create(
        model=model, input=f"SAY {mark}", metadata={"task_class": "normalization"}, extra_headers=TRACE
    )
    body = seen_once(mark)
    assert (body["reasoning"]["effort"], body["text"]["verbosity"]) == (quick_effort, "low")
    assert said(body) == [f"user: SAY {mark}"]
    assert (answer.reasoning.effort, answer.text.verbosity, answer.max_output_tokens) == (quick_effort, "low", 4096)
    told = answer.model_extra["bridge"]["trace"]["task_class"]
    assert (told["name"], told["source"], told["instruction_prefix"]) == ("normalization", "body", None)
    assert told["set"] == {
        "effort": quick_effort,
        "verbosity": "low",
        "max_output_tokens": 4096,
        "deadline_seconds": 60,
    }
    after = wait_until("the call is counted", lambda: (now := figures("normalization"))["calls"] > before["calls"] and now)
    assert (after["calls"], after["failures"]) == (before["calls"] + 1, before["failures"])
    assert after["input_tokens"] > before["input_tokens"] and after["output_tokens"] > before["output_tokens"]
    assert after["latency_ms"][-1] == {"le": None, "count": after["calls"]}


def test_the_request_wins_over_its_class_and_the_header_over_the_metadata(client, model, mark):
    with client.chat.completions.with_streaming_response.create(
        model=model,
        messages=[{"role": "user", "content": f"SAY {mark}"}],
        reasoning_effort="high",
        verbosity="high",
        metadata={"task_class": "side_reasoning"},
        extra_headers={HEADER: "small_verification", **TRACE},
    ) as response:
        told = response.parse().model_extra["bridge"]["trace"]["task_class"]
    body = seen_once(mark)
    assert (body["reasoning"]["effort"], body["text"]["verbosity"]) == ("high", "high")
    assert (told["name"], told["source"]) == ("small_verification", "header")
    assert set(told["set"]) == {"max_output_tokens", "deadline_seconds"}


def test_streams_have_it_too(client, model, mark, quick_effort):
    header = {HEADER: "intent_classification"}
    events = list(client.responses.create(model=model, input=f"SAY {mark} r", stream=True, extra_headers=header))
    assert events[-1].response.output_text == f"{mark} r"
    messages = [{"role": "user", "content": f"SAY {mark} c"}]
    chunks = list(client.chat.completions.create(model=model, messages=messages, stream=True, extra_headers=header))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == f"{mark} c"
    bodies = seen(mark)
    assert [body["reasoning"]["effort"] for body in bodies] == [quick_effort] * 2


def test_an_answer_past_the_classes_limit_is_cut(client, model, mark):
    words = " ".join([mark] * 600)
    answer = client.responses.create(
        model=model, input=f"SAY {words}", extra_headers={HEADER: "intent_classification"}
    )
    assert answer.incomplete_details.reason == "max_output_tokens"
    whole = client.responses.create(
        model=model, input=f"SAY {words}", max_output_tokens=100_000, extra_headers={HEADER: "intent_classification"}
    )
    assert whole.output_text == words


def test_an_unknown_class_is_refused_with_the_known_ones(client, model, mark):
    for ask in ({"metadata": {"task_class": "nope"}}, {"extra_headers": {HEADER: "nope"}}):
        with pytest.raises(openai.BadRequestError) as failure:
            client.responses.create(model=model, input=mark, **ask)
        assert failure.value.code == "unknown_task_class" and "normalization" in failure.value.message
        with pytest.raises(openai.BadRequestError) as failure:
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": mark}], **ask)
        assert failure.value.code == "unknown_task_class"
    assert seen(mark) == []


def threads():
    kept = health()["continuation"]
    return kept["warm_threads"], kept["spare_threads"], kept["templates"], kept["held_turns"]


def test_a_dry_run_calls_nobody(client, model, mark, quick_effort):
    before, calls = threads(), figures("normalization")["calls"]
    request = {
        "model": model,
        "input": f"SAY {mark}",
        "instructions": "be brief",
        "temperature": 0.5,
        "metadata": {"task_class": "normalization"},
    }
    told = client.post("/responses", cast_to=object, body=request, options={"params": {"dry_run": True}})
    assert told["object"] == "bridge.dry_run"
    assert told["model"] == {"asked": model, "resolved": model}
    assert told["task_class"]["set"]["effort"] == quick_effort == told["settings"]["effort"]
    assert (told["route"], told["chain"]["length"], told["chain"]["items"]) == ("fresh", 1, 1)
    assert (told["ignored"], told["admission"]["state"]) == (["temperature"], "open")
    assert told["thread"]["method"] == "thread/start" and told["thread"]["params"]["model"] == model
    assert told["thread"]["params"]["config"]["model_verbosity"] == "low"
    assert told["turn"]["params"]["effort"] == quick_effort
    assert told["inject"]["count"] == 2 and "items" not in told["inject"] and told["inject"]["bytes"] > 50
    assert 3 < told["estimate"]["input_tokens"] < 60

    full = client.responses.create(**request, extra_query={"dry_run": "full"}, stream=False)
    items = full.model_extra["inject"]["items"]
    assert [item["content"][0]["text"] for item in items] == ["be brief", f"SAY {mark}"]

    assert seen(mark) == [] and threads() == before
    assert figures("normalization")["calls"] == calls
    # A call is what it was said to be.
    client.responses.create(**request)
    assert seen_once(mark)["reasoning"]["effort"] == quick_effort


def test_a_dry_run_of_chat_and_of_a_chain(client, model, mark):
    header = {"x-codex-bridge-dry-run": "true"}
    messages = [{"role": "user", "content": f"SAY {mark}"}]
    told = client.chat.completions.create(
        model=model, messages=messages, n=2, stop=["x"], stream=False, extra_headers=header
    ).model_extra
    assert (told["request"]["target"], told["request"]["turns"]) == ("POST /v1/chat/completions", 2)
    assert told["emulated"] == ["n", "stop"]

    first = client.responses.create(model=model, input=f"SAY {mark}")
    dry = {"model": model, "input": "more", "previous_response_id": first.id, "extra_headers": header}
    for _ in range(2):
        told = client.responses.create(**dry).model_extra
        assert (told["route"], told["chain"]["length"], told["thread"]) == ("live", 2, None)
        assert told["inject"]["count"] == 1
    assert len(seen(mark)) == 1
    with pytest.raises(openai.BadRequestError) as failure:
        client.responses.create(**{**dry, "previous_response_id": "resp_none"})
    assert failure.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError) as failure:
        client.responses.create(**{**dry, "model": "nope"})
    assert failure.value.code == "model_not_found"
