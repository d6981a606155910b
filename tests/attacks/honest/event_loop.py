# ruff: noqa
# tries: works in an event loop
# reference: {"entry_point": "solve", "cases": [{"args": [3], "returns": [0, 1, 2]}]}

import asyncio


async def one(k):
    await asyncio.sleep(0.001)
    return k


def solve(n):
    async def every():
        return await asyncio.gather(*(one(k) for k in range(n)))

    return asyncio.run(every())
