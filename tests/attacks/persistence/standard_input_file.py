# ruff: noqa
# tries: leaves text where standard input is put for some programs


def attack():
    try:
        return open("/dev/stdin").read() == "mark"
    finally:
        open("/tmp/.stdin", "w").write("mark")
