"""After `clear` the listening thread does nothing more until it is let through."""

import threading
import time

from pydicom.uid import MRImageStorage
from pynetdicom import AE

from koosh_gadgets.dicom import gate
from koosh_gadgets.dicom.gate import Gate, steady
from tests.gadgets.dicom.pacs import QUIET, Pacs

pytestmark = QUIET


def test_a_closed_gate_has_the_thread_standing_before_it():
    door, rounds, stop = Gate(), [0], threading.Event()

    def listen():
        while not stop.is_set():
            door.wait()
            time.sleep(0.0001)  # between the gate and the work: here the thread is when it is overtaken
            rounds[0] += 1

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    for _ in range(200):
        door.clear()
        assert not door.is_set()
        before = rounds[0]
        time.sleep(0.0005)
        assert rounds[0] == before
        door.set()
        time.sleep(0.0002)
    stop.set()
    door.set()
    thread.join(10)
    assert rounds[0] > 0


def test_a_gate_does_not_wait_for_ever_for_a_thread_that_has_ended(monkeypatch):
    monkeypatch.setattr(gate, "PATIENCE_S", 0.05)
    door = Gate()
    door.clear()
    assert not door.wait(0.01)
    door.set()
    assert door.wait(0.01)


def test_the_listening_thread_goes_through_the_gate():
    entity = AE()
    entity.add_requested_context(MRImageStorage)
    with Pacs().running() as pacs:
        opened = entity.associate("127.0.0.1", pacs.port, ae_title="PACS")
        door = steady(opened)._reactor_checkpoint
        door.clear()
        assert door._standing
        door.set()
        opened.release()
    assert opened.is_released
