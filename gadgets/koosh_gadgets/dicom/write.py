"""Series on disk: all of its files or none."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from koosh_gadgets.dicom import classic, enhanced
from koosh_gadgets.dicom.describe import Subject, digest, subject
from koosh_gadgets.dicom.encode import Encoder
from koosh_gadgets.dicom.metadata import Facts, facts
from koosh_gadgets.dicom.uids import derived_uid
from koosh_gadgets.imagefile import Series
from koosh_models import private

log = logging.getLogger(__name__)


def write_series(
    series: Series,
    folder: str | Path,
    *,
    enhanced: bool = False,
    template: str | Path | None = None,
    overrides: str | Path | None = None,
    scan_id: str = "",
) -> list[Path]:
    """Write a series into `folder` and give its files, in slice order: one a slice, or an Enhanced MR object a volume.

    Written aside first and moved when the last byte is there: on a full disk, or for a series that is refused, nothing
    appears. `template` (a DICOM file) and `overrides` (JSON) supply patient, study and equipment; `scan_id` names a
    scan whose header doesn't. File names follow from the UIDs, so that the same series written twice is there once.
    """
    known = facts(series.header, template, overrides, scan_id or scan_name([series]))
    return write_subject(prepared(series, known, enhanced), folder, enhanced)


def write_scan(
    found: Sequence[Series],
    folder: str | Path,
    *,
    enhanced: bool = False,
    template: str | Path | None = None,
    overrides: str | Path | None = None,
) -> dict[int, list[Path]]:
    """Write every series of one scan, as one study of one patient; the files by series number."""
    name = scan_name(found)
    more = {"template": template, "overrides": overrides}
    return {one.number: write_series(one, folder, enhanced=enhanced, scan_id=name, **more) for one in found}


def scan_name(found: Sequence[Series]) -> str:
    """A name for a scan from what it shows, for headers that give none: two scans must not become one study."""
    return derived_uid("scan", found[0].header, digest(found[0].volume)) if found else ""


def prepared(series: Series, known: Facts, is_enhanced: bool) -> Subject:
    """The series with its pixels, planes and UIDs."""
    return subject(series, known, enhanced.FORM if is_enhanced else classic.FORM)


def write_subject(ready: Subject, folder: str | Path, is_enhanced: bool) -> list[Path]:
    """The files of a prepared series."""
    folder = private.folder(folder)
    aside = Path(tempfile.mkdtemp(prefix=".koosh-", suffix=".part", dir=folder))
    try:
        names = _write(ready, aside, is_enhanced)
        for name in names:
            os.replace(aside / name, folder / name)
    except OSError as error:
        cause = _cause(error)
        raise OSError(cause.errno, f"DICOM series not written to {folder}: {cause.strerror}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    log.info("%d DICOM %s written", len(names), "object" if len(names) == 1 else "objects")
    return [folder / name for name in names]


def _write(ready: Subject, aside: Path, is_enhanced: bool) -> list[str]:
    form = enhanced if is_enhanced else classic
    stem = f"{ready.number:04d}-{ready.series[-10:]}"
    names, encode = [], Encoder(form.VARYING)
    for data in form.datasets(ready):
        names.append(f"{stem}-{data.InstanceNumber:05d}.dcm")
        _write_file(encode(data), aside / names[-1])
    return names


def _cause(error: OSError) -> OSError:
    """The system's own error inside what pydicom makes of it, a page of traceback without a number."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno is not None:
            return inner
        inner = inner.__cause__ or inner.__context__
    return error


def _write_file(content: bytes, path: Path) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
