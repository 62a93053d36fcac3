"""A cable that is pulled; the test needs root, for a network of its own, and iproute2."""

import pytest

from tests.fakes.cable import cut_cable

LATE_S = 30.0  # of a busy machine, beside the minute that is promised


@pytest.mark.system
@pytest.mark.slow
def test_a_pulled_cable_is_noticed_within_about_a_minute_and_holds_up_nobody(tmp_path, caplog):
    seen = cut_cable(tmp_path)
    assert 10 < seen.silent_s < 60 + LATE_S
    assert 10 < seen.busy_s < 60 + LATE_S
    assert (seen.others, seen.kept, seen.alive) == (16, True, True)
    assert "the peer is gone" in caplog.text
