# ruff: noqa
# tries: works in threads
# reference: {"entry_point": "solve", "cases": [{"args": [4], "returns": [0, 1, 4, 9]}]}

from concurrent.futures import ThreadPoolExecutor


def solve(n):
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda k: k * k, range(n)))
