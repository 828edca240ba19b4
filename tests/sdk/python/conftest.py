"""Runs against a bridge with the stand-in model behind it: `codex-bridge demo`, with or without `--chatgpt`.

The environment says where: OPENAI_BASE_URL, OPENAI_API_KEY, STANDIN_URL, and STANDIN_CA where the stand-in
speaks TLS. The tests look at the bridge's slots, so one run at a time against one bridge.
"""

import uuid

import openai
import pytest
import support


def pytest_configure(config):
    if not support.STANDIN_URL:
        raise pytest.UsageError("STANDIN_URL is not set; scripts/test starts a bridge and sets it")


@pytest.fixture(scope="session")
def client():
    # Without retries: a test wants the first answer.
    with openai.OpenAI(base_url=support.BASE_URL, api_key=support.API_KEY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def model(client):
    return next(iter(client.models.list())).id


@pytest.fixture
def mark():
    """A word no other test says."""
    return f"m{uuid.uuid4().hex[:12]}"


@pytest.fixture
def new_async_client():
    """An async client belongs to one event loop: each `asyncio.run` makes its own."""

    def make():
        return openai.AsyncOpenAI(base_url=support.BASE_URL, api_key=support.API_KEY, max_retries=0, timeout=60)

    return make
