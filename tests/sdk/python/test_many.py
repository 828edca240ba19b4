"""Several calls at once, and calls that are given up."""

import asyncio

from support import health, seen, wait_until, wait_until_idle


def test_fifty_at_once_each_get_their_own(new_async_client, model, mark):
    async def responses(client, n):
        response = await client.responses.create(model=model, input=f"SAY {mark}-{n}")
        return response.output_text

    async def streamed(client, n):
        stream = await client.responses.create(model=model, input=f"SAY {mark}-{n}", stream=True)
        return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    async def chat(client, n):
        completion = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": f"SAY {mark}-{n}"}]
        )
        return completion.choices[0].message.content

    async def run():
        kinds = (responses, streamed, chat)
        async with new_async_client() as client:
            return await asyncio.gather(*(kinds[n % 3](client, n) for n in range(50)))

    assert asyncio.run(run()) == [f"{mark}-{n}" for n in range(50)]
    assert len(seen(f"{mark}-")) == 50
    wait_until_idle()
    assert health()["slots"]["queued"] == 0


def test_async_whole_and_streamed(new_async_client, model, mark):
    async def run():
        async with new_async_client() as client:
            whole = await client.responses.create(model=model, input=f"SAY {mark}")
            chunks = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": f"SAY {mark}"}], stream=True
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])
            models = [one.id async for one in client.models.list()]
            return whole.output_text, text, models

    whole, text, models = asyncio.run(run())
    assert whole == text == mark
    assert model in models


def test_leaving_a_stream_interrupts_its_turn(client, model, mark):
    with client.responses.create(model=model, input=f"{mark} SLOW 1000 100", stream=True) as stream:
        next(event for event in stream if event.type == "response.output_text.delta")
        assert health()["slots"]["in_use"] == 1
    wait_until_idle()
    with client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": f"{mark} SLOW 1000 100"}], stream=True
    ) as stream:
        next(chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content)
    wait_until_idle()


def test_giving_up_on_a_whole_answer_interrupts_its_turn(new_async_client, model, mark):
    async def run():
        async with new_async_client() as client:
            call = asyncio.ensure_future(client.responses.create(model=model, input=f"{mark} SLOW 1000 100"))
            await asyncio.to_thread(wait_until, "the model has the request", lambda: seen(mark))
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    asyncio.run(run())
    wait_until_idle()


def test_leaving_the_queue_gives_the_place_back(new_async_client, model, mark):
    async def run():
        async with new_async_client() as client:
            total = health()["slots"]["total"]
            calls = [
                asyncio.ensure_future(client.responses.create(model=model, input=f"{mark} SLOW 1000 100"))
                for _ in range(total + 3)
            ]
            await asyncio.to_thread(wait_until, "three wait", lambda: health()["slots"]["queued"] == 3)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(run())
    wait_until_idle()
    assert health()["slots"]["queued"] == 0
    assert len(seen(mark)) <= health()["slots"]["total"], "a request that left the queue reached the model"
