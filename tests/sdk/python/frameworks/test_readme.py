"""The README's snippets, as they stand there but for the address."""

import re
from pathlib import Path

import pytest
from support import BASE_URL

README = Path(__file__).parents[4] / "README.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


def test_there_are_some():
    assert len(SNIPPETS) >= 4


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.splitlines()[0])
def test_a_snippet_runs(snippet, capsys):
    assert "http://127.0.0.1:8787/v1" in snippet
    exec(snippet.replace("http://127.0.0.1:8787/v1", BASE_URL), {})
    assert capsys.readouterr().out == "echo: Say hello\n"
