"""pynetdicom's listening thread, held where it really waits."""

from __future__ import annotations

import threading

from pynetdicom.association import Association

PATIENCE_S = 5.0  # for a thread that is ending


class Gate(threading.Event):
    """An event whose `clear` returns when the one thread that goes through it stands before it.

    pynetdicom clears an event and looks at a flag that is set shortly before its listening thread waits. On a busy
    machine that thread may just have gone through: it then takes the answer that the sender is about to wait for, which
    costs a time limit and the archive's answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._open, self._standing, self._changed = True, False, threading.Condition()

    def set(self) -> None:
        """Let the thread through."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def is_set(self) -> bool:
        """Whether it is open."""
        return self._open

    def wait(self, timeout: float | None = None) -> bool:
        """Stand here until it is open."""
        with self._changed:
            self._standing = True  # seen by others only where the lock is let go, which is where it waits
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: self._open, timeout)
            finally:
                self._standing = False

    def clear(self) -> None:
        """Close it, and wait until the thread stands before it."""
        with self._changed:
            self._open = False
            self._changed.wait_for(lambda: self._standing, PATIENCE_S)


def steady(opened: Association) -> Association:
    """The association with a gate before its listening thread."""
    opened._reactor_checkpoint = Gate()
    return opened
