"""The outcome of a series: the document that makes a folder of the tree a result, and the key that it stands for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from covct.disk import versions
from covct.disk.documents import DamagedDocument, Document
from covct.disk.places import OUTCOME, is_bare_name
from covct.outputs import held_in

Status = Literal["done", "rejected", "failed"]
MOMENTS_KEPT = 32  # of results of other settings, weights, slices


def _bare_name(name: str) -> str:
    if not is_bare_name(name):
        raise ValueError("wanted the name of a file in the folder")
    return name


class Outcome(Document):
    """What became of one series: OUT/STUDY/SERIES/outcome.json, written last. Its files lie beside it."""

    PUBLISHED_AS: ClassVar[str] = versions.OUTCOME
    TITLE: ClassVar[str] = "covct outcome"

    status: Status = Field(description="rejected: the input is not for covct; failed: something unexpected.")
    work_key: str = Field(
        description="sha256 of the input's identity, the settings, the weights and the result version: same key, same "
        "result."
    )
    slug: str | None = Field(None, description="Why it was rejected or failed, for machines; null where it is done.")
    message: str | None = Field(None, description="The same in one sentence.")
    files: dict[Annotated[str, AfterValidator(_bare_name)], str] = Field(
        {}, description="Names of the result's files, each with its sha256."
    )
    formats: dict[str, str] = Field(
        {},
        description="Formats that these files are of, each with its kind: the type of a SEG, which slices captures "
        "show; empty where there is one kind only. The report is no format. Earlier versions did not note them.",
    )
    pruned: list[str] = Field(
        [], description="Formats that covct prune took away: nothing is missing, and a scan does not write them again."
    )
    covct_version: str = ""
    finished: str = Field("", description="UTC, ISO 8601.")
    seconds: float = Field(0.0, description="What the series took.")
    study_instance_uid: str = Field("", description="As the source has it; empty for volume files.")
    series_instance_uid: str = Field("", description="As the source has it; empty for volume files.")
    source: str = Field("", description="Of a volume file: its path below the source, or a hash of it.")
    patient: list[str] = Field(
        [], description="Digests that tell whose it is, under the tree's key, and a mark of that key; empty: not known."
    )
    content: str = Field("", description="sha256 of the input's identity alone, whatever the settings.")
    slices: str = Field(
        "",
        description="sha256 of the slices that were read, their Hounsfield units and places; empty where none were "
        "read, and for volume files, whose identity is their content.",
    )
    first_slices: str = Field(
        "",
        description="The same for the first result of these SOP Instance UIDs. Where `slices` differs, slices were "
        "replaced under their UIDs, and `slices` is part of the work key.",
    )
    moments: dict[str, str] = Field(
        {},
        description="When each result of this series was first computed, by work key, and when it was first compared "
        "with an earlier one, by the key of that comparison: local time with its offset from UTC, ISO 8601. Computed "
        "again it keeps its moment, and so its DICOM objects their dates.",
    )
    signatures: list[str] = Field(
        [],
        description="sha256 of sizes and times (in archives: of sizes and checksums) of files that hold these slices, "
        "newest first.",
    )

    @property
    def held(self) -> dict[str, str]:
        """The formats of its files, each with its kind; of earlier versions without it."""
        return held_in(self.files, self.formats)

    def is_of(self, key: str) -> bool:
        """Whether it has this work key, or the one that the key becomes for slices that were replaced."""
        return self.work_key == key or bool(self.slices and self.work_key == key_of_replaced(key, self.slices))


def work_key(content: tuple[str, ...], settings: dict[str, Any], weights: dict[str, str]) -> str:
    """sha256 of all that decides a result: the input's identity, settings, both weight cards, RESULT_VERSION.

    `weights` maps the task to the hash of its card, which holds the weights' own hash, the threshold and the recipe.
    """
    parts = {
        "content": sorted(content),
        "settings": settings,
        "weights": weights,
        "result_version": versions.RESULT_VERSION,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def key_of_replaced(key: str, slices: str) -> str:
    """The work key of slices that are not those which this key's result was made of, though they have their UIDs."""
    return hashlib.sha256(f"{key} {slices}".encode()).hexdigest()


def first_computed(before: Outcome | None, key: str, now: datetime) -> datetime:
    """When the result of a work key was first computed: as the outcome `before` tells, else `now`."""
    return (before and _told_moment(before, key)) or now


def moment_of(outcome: Outcome) -> datetime | None:
    """When a result was first computed; None where its outcome does not tell."""
    return _told_moment(outcome, outcome.work_key)


def _told_moment(outcome: Outcome, key: str) -> datetime | None:
    told = outcome.moments.get(key) or (outcome.finished if outcome.is_of(key) and outcome.status == "done" else "")
    try:
        moment = datetime.fromisoformat(told)
    except ValueError:
        return None
    return moment if moment.tzinfo and moment.year >= 2020 else None


def with_moments(before: Outcome | None, computed: Mapping[str, datetime]) -> dict[str, str]:
    """The moments of an outcome, with those of the keys of its own result, where it has one."""
    moments = dict(before.moments) if before else {}
    for key, moment in computed.items():
        moments.pop(key, None)  # those in use are the last
        moments[key] = moment.isoformat()
    return dict(list(moments.items())[-MOMENTS_KEPT:])


def content_key(content: tuple[str, ...]) -> str:
    """sha256 of the input's identity alone."""
    return work_key(content, {}, {})


def read_outcome(folder: Path) -> Outcome | None:
    """The outcome of a result folder, or None where there is none, or a damaged one: then the series is done again."""
    try:
        return Outcome.read(folder / OUTCOME)
    except (OSError, DamagedDocument):
        return None


def is_whole(folder: Path, outcome: Outcome) -> bool:
    """Whether every file of a result is still there."""
    return all(os.path.isfile(f"{folder}/{name}") for name in outcome.files)
