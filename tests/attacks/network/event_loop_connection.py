# ruff: noqa
# tries: opens a connection from an event loop

import asyncio


def attack():
    async def go():
        await asyncio.open_connection("127.0.0.1", 22)

    asyncio.run(go())
    return True
