"""The header reader: sloppy headers are understood, hostile ones refused."""

import random

import ismrmrd
import pytest

from koosh_gadgets.wire.errors import Malformed, TooLarge, WireError
from koosh_gadgets.wire.header import read_header
from tests.fakes.streams import SPACE, header_xml


def test_a_complete_header_is_read_as_ismrmrd_reads_it():
    assert read_header(header_xml()) == ismrmrd.xsd.CreateFromDocument(header_xml())


@pytest.mark.parametrize("tail", [b"\0", b"\0\0\0\n", b" \n"])
def test_trailing_nul_is_no_harm(tail):
    assert read_header(header_xml().encode() + tail) == read_header(header_xml())


@pytest.mark.parametrize(
    "part",
    [
        "<patientPosition>HFS</patientPosition>",
        "<H1resonanceFrequency_Hz>123000000</H1resonanceFrequency_Hz>",
        "<trajectory>radial</trajectory>",
        f' xmlns="{SPACE}"',
    ],
)
def test_parts_that_scanners_leave_out_may_be_missing(part):
    assert part in header_xml()
    assert read_header(header_xml().replace(part, "")).encoding[0].encodedSpace.matrixSize.x == 16


def test_missing_limits_and_conditions_are_filled():
    xml = header_xml()
    for name in ("encodingLimits", "experimentalConditions"):
        start, end = xml.index(f"<{name}>"), xml.index(f"</{name}>") + len(name) + 3
        xml = xml[:start] + xml[end:]
    assert read_header(xml).encoding[0].encodingLimits.kspace_encoding_step_1 is None


def test_unknown_elements_and_trajectories_are_ignored():
    xml = header_xml(extra="<vendor><deep>1</deep></vendor>").replace(">radial<", ">koosh ball<")
    header = read_header(xml)
    assert header.encoding[0].trajectory.value == "other"


@pytest.mark.parametrize(
    "attack",
    [
        '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;&b;">]><ismrmrdHeader>&c;</ismrmrdHeader>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><ismrmrdHeader>&x;</ismrmrdHeader>',
        '<!DOCTYPE ismrmrdHeader SYSTEM "http://127.0.0.1/x.dtd"><ismrmrdHeader/>',
        "<other/>",
        "",
        "no xml",
        "<ismrmrdHeader>" * 2000,
    ],
)
def test_attacks_and_nonsense_are_refused(attack):
    with pytest.raises(Malformed):
        read_header(attack)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<x>16</x>", "<x>0</x>", "matrix size x is 0"),
        ("<x>16</x>", "<x>many</x>", "no valid"),
        ("<z>160.0</z>", "<z>nan</z>", "field of view z"),
        ("<z>160.0</z>", "<z>-5</z>", "field of view z"),
        ("<z>160.0</z>", "", "field of view|no valid"),
    ],
)
def test_impossible_sizes_are_named(old, new, message):
    with pytest.raises(Malformed, match=message):
        read_header(header_xml().replace(old, new))


def test_a_header_above_the_cap_is_not_parsed():
    with pytest.raises(TooLarge):
        read_header("<" * (1 << 20) + "<")


def test_every_truncation_is_refused():
    raw = header_xml().encode()
    for size in range(0, len(raw), 9):
        with pytest.raises(Malformed):
            read_header(raw[:size])


def test_flipped_bytes_end_in_a_header_or_in_our_own_error():
    raw, rng = header_xml().encode(), random.Random(0)
    for _ in range(150):
        broken = bytearray(raw)
        broken[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        try:
            header = read_header(bytes(broken))
        except WireError:
            continue
        assert header.encoding[0].encodedSpace.matrixSize.x >= 1


BORN = "<patientName>Doe^Jane</patientName><patientBirthdate>31.12.1999</patientBirthdate>"


def test_a_broken_value_is_refused_without_being_repeated(caplog):
    subject = f"<subjectInformation>{BORN}</subjectInformation>"
    xml = header_xml().replace("<measurementInformation>", subject + "<measurementInformation>")
    with pytest.raises(Malformed) as seen:
        read_header(xml)
    assert "1999" not in str(seen.value) + caplog.text
    assert "Jane" not in str(seen.value) + caplog.text
