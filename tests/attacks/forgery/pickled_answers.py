# ruff: noqa
# tries: writes a pickle that would run code where it is read

import os, pickle


class Run:
    def __reduce__(self):
        return (eval, ("1",))


def solve(n):
    os.write(3, b"=" + pickle.dumps(Run()) + b"\n")
    return Run()
