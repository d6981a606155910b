# ruff: noqa
# tries: serves from an event loop

import asyncio


def attack():
    async def go():
        return await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)

    return len(asyncio.run(go()).sockets) > 0
