"""SIGTERM as something that a run answers to."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def on_termination(handle: Callable[[], Any]) -> Iterator[None]:
    """``handle`` is called when SIGTERM comes, in place of what was done before; outside the main thread, where Python
    lets nobody handle signals, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: handle())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
