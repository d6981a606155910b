# ruff: noqa
# tries: fetches a page

import urllib.request


def attack():
    urllib.request.urlopen("http://1.1.1.1", timeout=2)
    return True
