"""Labels by slice, without masks: whether each slice of a volume holds infection.

``slice_labels.csv`` lies beside volume files. Its columns:

| column | meaning |
|---|---|
| `series`, or `patient` | the volume, ``NAME.nii.gz`` or ``NAME_ANYTHING.nii.gz``; `patient` beside `series`: whose |
| `index_head_first` | the slice, from 0 at the head |
| `infection` | 1 or yes, 0 or no; empty where nobody says so |
| `diagnosis` | optional; `normal` is a person without disease, whose slices are all without infection |

Other columns, such as one for each lobe, may be there and are passed over. Only evaluation reads this layout: nothing
is marked that a network could learn from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from covct.data.cases import Case, LeftOut
from covct.data.tables import patient_of, read_table
from covct.errors import UsageError
from covct.intake.volume_header import format_of, stem_of

TABLE = "slice_labels.csv"
SAID = {"1": True, "yes": True, "true": True, "0": False, "no": False, "false": False, "": None}
WITHOUT_DISEASE = "normal"


def is_labelled_by_slice(folder: Path) -> bool:
    return (folder / TABLE).is_file()


def find_labelled_by_slice(folder: Path, source: str, masked: bool) -> Iterator[Case | LeftOut]:
    """The volumes of a folder of this layout.

    Raises
    ------
    UsageError
        The table cannot be read, or its slices are not numbered from 0 without a gap.
    """
    volumes = {stem_of(path.name): path for path in sorted(folder.iterdir()) if format_of(path.name)}
    for name, rows in _by_series(folder / TABLE).items():
        path = volumes.get(name) or next((p for stem, p in volumes.items() if str(stem).startswith(f"{name}_")), None)
        if path is None:
            yield LeftOut(source, name, "no-image", f"{TABLE} has labels of {name}, of which no volume is there")
            continue
        normal = all(row.get("diagnosis", "").lower() == WITHOUT_DISEASE for row in rows)
        labels = tuple(False if normal else SAID[row["infection"].lower()] for row in rows)
        patient = patient_of(name, {"patient": rows[0].get("patient", "")})
        yield Case(
            name, source, folder, "slice-labels", patient, (path,), negative=normal, slice_labels=labels
        )  # fmt: skip


def _by_series(path: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of each series, head first."""
    rows = read_table(path, ("index_head_first", "infection"))
    key = next((column for column in ("series", "patient") if column in rows[0]), None)
    if key is None:
        raise UsageError(f"{path}: no column series or patient; got {', '.join(rows[0])}")
    found: dict[str, list[dict[str, str]]] = {}
    for number, row in enumerate(rows, 2):
        if not row["index_head_first"].isdigit() or row["infection"].lower() not in SAID:
            got = f"index_head_first {row['index_head_first']!r}, infection {row['infection']!r}"
            raise UsageError(f"{path}, line {number}: {got}; wanted a number from 0, and 1, 0 or nothing")
        found.setdefault(row[key], []).append(row)
    for name, mine in found.items():
        mine.sort(key=lambda row: int(row["index_head_first"]))
        if [int(row["index_head_first"]) for row in mine] != list(range(len(mine))):
            raise UsageError(f"{path}: the slices of {name} are not numbered from 0 without a gap")
    return found
