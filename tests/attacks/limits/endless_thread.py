# ruff: noqa
# tries: leaves a thread that never ends
# seconds: 1

import threading, time

threading.Thread(target=time.sleep, args=(1000,)).start()
while True:
    time.sleep(1)
