"""A DICOM Encapsulated PDF: a whole document, and the one that lies beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom

from covct.dicom.encapsulated_pdf import MIME_TYPE
from covct.results.defects import Defect


def check_pdf(dataset: pydicom.Dataset, plain: Path) -> Iterator[Defect]:
    """Check the document, and drop it.

    Parameters
    ----------
    plain : Path
        The same report as a file; compared where it is there.
    """
    if dataset.MIMETypeOfEncapsulatedDocument != MIME_TYPE:
        yield Defect("bad-document", f"its MIME type is not {MIME_TYPE}")
    stored, length = dataset.EncapsulatedDocument, int(dataset.EncapsulatedDocumentLength)
    document, padding = stored[:length], stored[length:]
    del dataset.EncapsulatedDocument
    if len(document) != length or len(padding) != length % 2:
        yield Defect("bad-document", f"{len(stored)} bytes, wanted {length + length % 2}")
    if not document.startswith(b"%PDF-") or not document.rstrip().endswith(b"%%EOF"):
        yield Defect("bad-document", "it is no PDF, or not all of one")
    elif plain.is_file() and plain.read_bytes() != document:
        yield Defect("bad-document", f"it is not the same as {plain.name}")
