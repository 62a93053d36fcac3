"""`koosh doctor`: findings, exit codes, and a server or PACS that is or isn't there."""

import json
import socket
import threading

from pynetdicom import AE
from pynetdicom.sop_class import Verification

from koosh_gadgets.cli import main
from koosh_gadgets.commands import doctor


def test_it_finds_python_torch_and_a_working_backend(capsys, tmp_path):
    assert main(["doctor", "--json", "--spool", str(tmp_path / "not-yet")]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["python"]["state"] == found["torch"]["state"] == found["finufft"]["state"] == "ok"
    assert "ms for 32^3" in found["finufft"]["found"]
    assert found["disk"]["found"].endswith(str(tmp_path))


def test_a_missing_backend_is_a_warning_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    found = doctor.backend("finufft")
    assert found.state == "warning"
    assert "pip install finufft" in found.mend
    assert doctor.backends()[-1].state == "fault"


def test_a_server_that_is_not_there_is_a_fault_with_the_command_that_starts_it(capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["doctor", "--port", str(port)]) == 1
    assert f"koosh serve -a 127.0.0.1 -p {port}" in capsys.readouterr().out


def test_a_server_that_closes_in_order_is_well(capsys):
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        peer, _ = listener.accept()
        with peer:
            received = b""
            while len(received) < 1028:
                received += peer.recv(4096)
            peer.sendall(b"\x04\x00")

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with listener:
        assert main(["doctor", "-p", str(listener.getsockname()[1])]) == 0
    thread.join(5)
    assert "answers" in capsys.readouterr().out


def test_a_malformed_pacs_address_is_bad_input():
    assert main(["doctor", "--port", "1", "--pacs", "nonsense"]) == 2


def test_a_pacs_that_is_not_there_is_a_fault():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    found = doctor.pacs(where, "ANY-SCP", "KOOSH")
    assert found.state == "fault"
    assert "does not answer" in found.found


def test_a_pacs_that_echoes_is_well():
    entity = AE()
    entity.add_supported_context(Verification)
    scp = entity.start_server(("127.0.0.1", 0), block=False)
    try:
        where = f"127.0.0.1:{scp.server_address[1]}"
        assert doctor.pacs(where, "ANY-SCP", "KOOSH").state == "ok"
    finally:
        scp.shutdown()
