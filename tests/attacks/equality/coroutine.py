# ruff: noqa
# tries: returns something to wait for


async def solve(n):
    return n
