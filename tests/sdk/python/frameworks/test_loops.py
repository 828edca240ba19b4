"""The same tool loops through every framework, and what the model saw of them: one native turn each."""

import json

from support import native_loop, offered, seen


def call(name, **arguments):
    return f"CALLTOOL {name} {json.dumps(arguments)}"


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def get_time(zone: str) -> str:
    """The time in a zone."""
    return f"noon in {zone}"


def step(n: int) -> str:
    """One step of three; the model is told to take the next."""
    return call("step", n=n + 1) if n < 3 else "all done"


def named(name):
    """A tool of any name, which says its name."""

    def tool() -> str:
        return f"I am {name}"

    tool.__name__ = name
    tool.__doc__ = f"The tool {name}"
    return tool


def test_a_single_call(loop, model, mark):
    said = loop.run(model, f"{mark} {call('get_weather', city='Paris')}", [get_weather])
    assert said == "tool said: sunny in Paris"
    (_, last) = native_loop(mark, 1)
    assert last["input"][-1]["output"] == "sunny in Paris"


def test_parallel_calls(loop, model, mark):
    text = f"{mark} {call('get_weather', city='Oslo')} {call('get_time', zone='UTC')}"
    assert loop.run(model, text, [get_weather, get_time]) == "tool said: sunny in Oslo, noon in UTC"
    native_loop(mark, 1)


def test_three_rounds_with_a_thought_in_each(loop, model, mark):
    text = f'{mark} THINK "which tool" {call("step", n=1)}'
    assert loop.run(model, text, [step]).endswith("all done")
    (*_, last) = native_loop(mark, 3)
    assert [item["type"] for item in last["input"]].count("reasoning") == 3


def test_twenty_tools(loop, model, mark):
    tools = [named(f"tool_{n}") for n in range(20)]
    said = loop.run(model, f"{mark} {call('tool_7')} {call('tool_19')}", tools)
    assert said == "tool said: I am tool_7, I am tool_19"
    (first, _) = native_loop(mark, 1)
    assert sorted(tool["name"] for tool in offered(first)) == sorted(tool.__name__ for tool in tools)


# Codex keeps some of these for itself and does not take others; it is told another name.
NAMES = ["exec_command", "view_image", "mcp__x", "x" * 70, "dotted.name"]


def test_names_that_codex_does_not_take(loop, model, mark):
    tools = [named(name) for name in NAMES]
    loop.run(model, f"SAY {mark}", tools)
    (body,) = seen(mark)
    upstream = {tool["description"]: tool["name"] for tool in offered(body)}
    assert not set(upstream.values()) & set(NAMES)
    calls = [call(upstream[f"The tool {name}"]) for name in NAMES]
    said = loop.run(model, f"again {mark} {' '.join(calls)}", tools)
    assert said == "tool said: " + ", ".join(f"I am {name}" for name in NAMES)
    native_loop(f"again {mark}", 1)
