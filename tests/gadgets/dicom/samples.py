"""Series, headers and image files to write and judge."""

import contextlib
from pathlib import Path

import h5py
import ismrmrd
import numpy as np

from koosh_gadgets.imagefile import Series
from koosh_models.scan import Geometry
from tests.gadgets.orientations import geometry

HEADER = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <subjectInformation><patientName>{name}</patientName><patientWeight_kg>70.5</patientWeight_kg><patientID>{patient}</patientID>
    <patientBirthdate>1970-02-03</patientBirthdate><patientGender>F</patientGender></subjectInformation>
  <studyInformation><studyDate>2024-05-06</studyDate><studyTime>12:34:56</studyTime><studyID>77</studyID>
    <studyInstanceUID>{study}</studyInstanceUID><bodyPartExamined>{part}</bodyPartExamined></studyInformation>
  <measurementInformation><measurementID>{measurement}</measurementID><patientPosition>HFS</patientPosition>
    <initialSeriesNumber>3</initialSeriesNumber><protocolName>{protocol}</protocolName>
    <frameOfReferenceUID>1.2.3.4.5</frameOfReferenceUID></measurementInformation>
  <acquisitionSystemInformation><systemVendor>{vendor}</systemVendor><systemModel>Model</systemModel>
    <systemFieldStrength_T>2.89362</systemFieldStrength_T></acquisitionSystemInformation>
  <experimentalConditions><H1resonanceFrequency_Hz>123197000</H1resonanceFrequency_Hz></experimentalConditions>
  <encoding><encodedSpace><matrixSize><x>8</x><y>8</y><z>8</z></matrixSize></encodedSpace></encoding>
  <sequenceParameters><TR>5.1</TR><TE>2.3</TE><flipAngle_deg>12</flipAngle_deg>
    <sequence_type>Flash</sequence_type></sequenceParameters>
</ismrmrdHeader>"""
META = {
    "koosh_method": "network",
    "koosh_weights": "head-3d-v1",
    "koosh_weights_sha256": "ab" * 32,
    "koosh_acceleration": "12",
    "SeriesDescription": "koosh network R=12",
}


def header(**given: str) -> str:
    """A scanner's header."""
    words = {
        "name": "Doe^Jane", "patient": "P-1", "study": "1.2.3.99", "part": "HEAD", "measurement": "m17",
        "protocol": "radial 3D", "vendor": "Vendor",
    }  # fmt: skip
    return HEADER.format(**{**words, **given})


def phantom(matrix: tuple[int, ...]) -> np.ndarray:
    """Integers that differ from voxel to voxel along every axis, so that a flip, a turn or a shift shows."""
    return np.random.default_rng(5).permutation(int(np.prod(matrix))).reshape(matrix).astype("f4") % 4000


def series(name: str = "triple_oblique", matrix: tuple[int, int, int] = (7, 10, 13), **given: object) -> Series:
    """A phantom in one of the orientations."""
    words: dict = {"meta": META, "header": header(), **given}
    return Series(words.pop("volume", phantom(matrix)), geometry(name, matrix), **words)


def save(path: Path, source: Series, as_slices: bool = True, **head: object) -> Path:
    """An ISMRMRD image file as a reconstruction writes it: 2D slices or one 3D image of every frame."""
    with contextlib.closing(ismrmrd.Dataset(str(path), "dataset", create_if_needed=True)) as file:
        if source.header:
            file.write_xml_header(source.header.encode())
        for image in images_of(source, as_slices, **head):
            file.append_image(f"image_{source.number}", image)
    return path


def images_of(source: Series, as_slices: bool = True, **head: object) -> list[ismrmrd.Image]:
    """The ISMRMRD images of a series."""
    place, images = source.geometry, []
    through = np.array(place.slice_dir) * place.voxel_mm[0]
    for frame, volume in enumerate(source.frames):
        parts = [volume[k : k + 1] for k in range(len(volume))] if as_slices else [volume]
        for k, part in enumerate(parts):
            image = ismrmrd.Image.from_array(np.ascontiguousarray(part), transpose=False)
            image.image_type = {"magnitude": ismrmrd.IMTYPE_MAGNITUDE, "phase": ismrmrd.IMTYPE_PHASE}[source.kind]
            away = (k - len(volume) // 2) * through if as_slices else 0
            image.position = tuple(np.array(place.position_mm) + away)
            image.read_dir, image.phase_dir, image.slice_dir = place.read_dir, place.phase_dir, place.slice_dir
            depth = place.voxel_mm[0] if as_slices else place.fov_mm[0]
            image.field_of_view = (place.fov_mm[2], place.fov_mm[1], depth)
            image.image_series_index, image.image_index, image.repetition = source.number, len(images), frame
            image.slice = k
            image.meta = ismrmrd.Meta(source.meta)
            for key, value in head.items():
                setattr(image, key, value)
            images.append(image)
    return images


def damage(path: Path, change: str) -> None:
    """Take one slice out of, or double one in, an image file."""
    with h5py.File(path, "r+") as file:
        name = next(key for key in file["dataset"] if key.startswith("image"))
        group = file["dataset"][name]
        keep = np.arange(len(group["header"]))
        keep = np.delete(keep, 3) if change == "missing" else np.insert(keep, 3, 3)
        for part in ("header", "data", "attributes"):
            content = group[part][...][keep]
            kind, space = group[part].dtype, group[part].maxshape
            del group[part]
            group.create_dataset(part, data=content, dtype=kind, maxshape=space, chunks=True)


PLANE = Geometry((9, 5), (90.0, 40.0), slice_mm=4.0)
