"""Locks between native threads and the event loop, in a process of its own: gevent's patches cannot be undone."""

import subprocess
import sys

PROGRAM = """
from gevent import monkey
monkey.patch_all()
import logging, threading, gevent
from gevent.threadpool import ThreadPool
from app.web.locks import mend

sleep = monkey.get_original("time", "sleep")

class Slow:
    def write(self, line):
        sleep(0.0002)  # as a terminal or a disk: other threads run meanwhile

logging.basicConfig(handlers=[logging.StreamHandler(Slow())], force=True)
mend()
pool, lock, changed = ThreadPool(10), threading.Lock(), threading.Condition()

def work():
    with lock:
        sleep(0.0002)
    with changed:
        changed.wait(0.001)
    logging.warning("a line")

def wait_for_the_pool():
    for _ in range(10):
        pool.apply(work)

def log():
    for _ in range(20):
        logging.warning("another")
        gevent.sleep(0)

gevent.joinall([gevent.spawn(task) for task in [wait_for_the_pool] * 20 + [log] * 5], raise_error=True)
"""


def test_neither_native_threads_nor_the_event_loop_wait_for_ever() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
