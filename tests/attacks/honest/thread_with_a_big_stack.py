# ruff: noqa
# tries: runs its main function in a thread with a big stack
# reference: {"stdin_cases": [{"stdin": "20000", "stdout": "20000"}]}

import sys, threading

sys.setrecursionlimit(1 << 20)
threading.stack_size(1 << 26)


def down(n):
    return 0 if n == 0 else 1 + down(n - 1)


def main():
    print(down(int(input())))


thread = threading.Thread(target=main)
thread.start()
thread.join()
