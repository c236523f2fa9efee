"""What of the sources is not read though it may hold images: named once for each kind, and for each source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from covct.disk.sources import Problem, SourceFile, printable, read_all
from covct.errors import SeriesError

NOT_READ, NOTHING_READ = "not-read", "nothing-read"
SOURCES_NOT_READ = "sources of which nothing was read"  # as a run counts them
READ = "DICOM, NIfTI, MetaImage or NRRD, loose or in a .zip"
UNPACK, DECOMPRESS, CONVERT = "unpack {}", "decompress {}", "convert {} to NIfTI, MetaImage or NRRD"
KINDS = {
    **dict.fromkeys((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z"), UNPACK),
    **dict.fromkeys((".rar", ".iso", ".cab", ".arj", ".lzh"), UNPACK),
    **dict.fromkeys((".dcm.gz", ".ima.gz", ".gz", ".bz2", ".xz", ".zst", ".lz4", ".lzma", ".z"), DECOMPRESS),
    **dict.fromkeys((".hdr", ".img", ".hdr.gz", ".img.gz", ".mgz", ".mgh", ".mnc", ".minc", ".par", ".rec"), CONVERT),
    **dict.fromkeys((".vtk", ".vti", ".gipl", ".mrc", ".nii.bz2", ".nii.xz", ".nii.zst", ".npy", ".npz"), CONVERT),
    **dict.fromkeys((".mat", ".h5", ".hdf5", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".jp2"), CONVERT),
}
ZIP_IN_ZIP = ".zip within .zip"
MOST_LOOKED_AT = 1000  # files of a source, for one that is no DICOM
# What comes with an export on a CD, or is left by those who look at it, and stays when its studies are moved away.
DEBRIS = {".exe", ".dll", ".ocx", ".msi", ".bat", ".cmd", ".sh", ".jar", ".class", ".so", ".dylib", ".app", ".sys"}
DEBRIS |= {".ax", ".tlb", ".cat", ".mui", ".pak", ".swf"}
DEBRIS |= {".inf", ".ini", ".cfg", ".conf", ".config", ".manifest", ".properties", ".lang", ".db", ".lnk", ".url"}
DEBRIS |= {".htm", ".xhtml", ".css", ".js", ".xsl", ".xslt", ".xsd", ".dtd", ".chm", ".hlp", ".rtf", ".doc", ".docx"}
DEBRIS |= {".ico", ".gif", ".bmp", ".svg", ".ttf", ".otf", ".woff", ".woff2"}
DEBRIS_STEMS = ("readme", "license", "licence", "liesmich", "lisezmoi", "leame", "copying")


def kind_of(file: SourceFile) -> str | None:
    """The kind of a file that is not read, by its name; None for one of which nothing is to be said.

    Asked only of what is no image by its contents: DICOM is read under any name.
    """
    name = file.name.lower()
    if file.member and name.endswith(".zip"):
        return ZIP_IN_ZIP
    found = max((suffix for suffix in KINDS if name.endswith(suffix)), key=len, default=None)
    return None if name.endswith(".raw.gz") else found  # of a detached header, or of nobody knows what


def is_debris(file: SourceFile) -> bool:
    """Whether a file is, by its name, of a medium and not of a patient: a viewer, its pages, what a system left."""
    name = PurePath(file.name.replace("\\", "/").lower()).name
    return PurePath(name).suffix in DEBRIS or name.startswith(DEBRIS_STEMS) and kind_of(file) is None


@dataclass
class Unread:
    """What was met and not read.

    Attributes
    ----------
    sources : frozenset of Path
        As they were named.
    kinds : dict of str to list of SourceFile
        By kind, those of which is known that they may hold images.
    read_of : set of Path
        Sources of which something was read.
    left : dict of Path to list of SourceFile
        By source, what was not read and may hold images, by its name or as nothing speaks against it.
    """

    sources: frozenset[Path] = frozenset()
    kinds: dict[str, list[SourceFile]] = field(default_factory=lambda: defaultdict(list))
    read_of: set[Path] = field(default_factory=set)
    left: dict[Path, list[SourceFile]] = field(default_factory=lambda: defaultdict(list))

    def read(self, file: SourceFile) -> None:
        if len(self.read_of) < len(self.sources):
            self.read_of |= self._sources_of(file)

    def leave(self, file: SourceFile) -> None:
        """Note a file that is no image, or cannot be read."""
        if kind := kind_of(file):
            self.kinds[kind].append(file)
        if is_debris(file) and file.path not in self.sources:
            return
        for source in self._sources_of(file) - self.read_of:
            if len(self.left[source]) < MOST_LOOKED_AT:
                self.left[source].append(file)

    def leave_named(self, file: SourceFile) -> None:
        """Note a file that is passed over by its name: worth a word only where it was named as a source."""
        if file.path in self.sources:
            self.left[file.path].append(file)

    def _sources_of(self, file: SourceFile) -> set[Path]:
        return {place for place in (file.path, *file.path.parents) if place in self.sources}

    def by_kind(self) -> list[Problem]:
        """One problem a kind, with the count and what to do."""
        return [_of_kind(kind, files) for kind, files in sorted(self.kinds.items())]

    def by_source(self, problems: Iterable[Problem]) -> list[Problem]:
        """One problem for each source that held something, but nothing that is read.

        An empty directory is none, nor one with nothing but what stays behind when studies are moved away: DICOM
        objects that are no images (dose reports), a CD's viewer and its pages.

        Parameters
        ----------
        problems : iterable of Problem
            What else could not be read: an archive, a folder.
        """
        labels = [problem.label for problem in problems]
        found = []
        for source in sorted(self.sources - self.read_of):
            broken = sum(label == printable(source) or label.startswith(f"{printable(source)}/") for label in labels)
            if broken or not all(_is_dicom(file) for file in self.left[source]):
                message = f"it contains files, but none of them could be read; wanted {READ}"
                found.append(Problem(printable(source), NOTHING_READ, message))
        return found


def _of_kind(kind: str, files: list[SourceFile]) -> Problem:
    many = len(files) > 1
    what = f"{len(files)} files of this kind are" if many else "one file of this kind is"
    do = "take {} out" if kind == ZIP_IN_ZIP else KINDS[kind]
    where = f"{'the first is ' if many else ''}{files[0].label}"
    message = f"{what} not read ({where}): {do.format('them' if many else 'it')}; wanted {READ}"
    return Problem(f"*{kind}", NOT_READ, message)


def _is_dicom(file: SourceFile) -> bool:
    try:
        [(_, start)] = read_all([file], 132)
    except SeriesError:
        return False
    return start[128:] == b"DICM"
