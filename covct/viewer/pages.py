"""The pages that the viewer serves: all series, one with its scan, and one of which only the result is left."""

from __future__ import annotations

from collections.abc import Sequence

from covct.html import inline_script, png_address, render
from covct.outputs import FORMATS
from covct.results.nights import headline, marked
from covct.results.study_page import page_of
from covct.results.study_pictures import QUALITIES, Encoding
from covct.viewer.opened import Opened
from covct.viewer.studies import Study

STUDY_PAGE, PICTURE = FORMATS["page"].file, FORMATS["png"].file
HEADER = b"<header>"  # of a study's page: the sentence stands below it


def list_page(studies: Sequence[Study]) -> str:
    """All series: what came of each, and what of it can be opened."""
    rows = [(number, study, _came_of(study)) for number, study in enumerate(studies)]
    return render("view-list.html", rows=rows)


def _came_of(study: Study) -> str:
    entry = study.entry
    if not study.done:
        return f"{entry.status}: {entry.message}"
    if entry.infection_percent is None:
        return "no percentage" if entry.called_in_view is None else f"{headline(entry)} marked"
    return marked(entry.infection_percent, entry.percent_interval)


def scan_page(opened: Opened, reader: str) -> str:
    """A series with its scan, every pixel of it: what is painted is what is saved."""
    _, rows, columns = opened.scan.working.shape
    own = inline_script("view.js")
    return page_of(
        opened.result,
        Encoding(rows, columns, QUALITIES[0]),
        "view.html",
        reader=reader,
        own_script=own["script"],
        own_sha256=own["script_sha256"],
        of_pictures=opened.scan.working.shape[0] == 1,
    )


def result_page(study: Study, sentence: str) -> bytes:
    """What is left where the scan cannot be shown: the study's own page, or a picture, below the sentence."""
    page = study.folder / STUDY_PAGE
    if page.is_file():
        notice = render("view-notice.html", sentence=sentence).encode()
        left = page.read_bytes()
        return left.replace(HEADER, HEADER + notice, 1) if HEADER in left else notice + left
    picture = study.folder / PICTURE
    image = png_address(picture.read_bytes()) if picture.is_file() else ""
    return render("view-result.html", sentence=sentence, image=image, came_of=_came_of(study)).encode()
