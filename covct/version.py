"""Which covct this is. Between releases the commit is part of the answer: results say what code made them.

A commit has the same version wherever it is read: in a checkout (a shallow clone or a worktree too), in what
`git archive` packs, in a wheel and in an image. Commits since a tag are not counted: a shallow clone and an archive do
not know them. The build runs this file by itself, so it imports nothing of covct.
"""

import os
import re
from pathlib import Path

RELEASE = "0.2.0.dev0"  # without .dev0 in a release, which needs no commit to be known by
DIGITS = 7  # "covct VERSION lungs, opacity (research use only)" has to fit the 64 characters of a Series Description
PACKAGE = Path(__file__).parent


def full_version(package: Path = PACKAGE) -> str:
    """The version by PEP 440, such as 0.2.0 or 0.2.0.dev0+g1a2b3c4; without the commit where nothing tells it."""
    if ".dev" not in RELEASE:
        return RELEASE
    commit = _commit_of_checkout(package.parent / ".git")
    built = _text(package / "VERSION")  # of a wheel; editable, it is left in the checkout and outdated soon
    if built and not commit:
        return built
    told = (commit, _commit_of_archive(package.parent / ".git_archival.txt"), os.environ.get("COVCT_COMMIT", ""))
    commit = next((one for one in told if re.fullmatch("[0-9a-f]{40,64}", one)), "")
    return f"{RELEASE}+g{commit[:DIGITS]}" if commit else RELEASE


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _commit_of_checkout(git: Path) -> str:
    """What HEAD points at, read without the git program: it may be absent, and each start of covct would run it."""
    if elsewhere := _text(git).removeprefix("gitdir: "):  # a worktree's .git is a file
        git = git.parent / elsewhere
    head = _text(git / "HEAD")
    if not head.startswith("ref: "):
        return head
    name = head.removeprefix("ref: ")
    common = git / _text(git / "commondir")
    packed = re.search(f"^([0-9a-f]+) {re.escape(name)}$", _text(common / "packed-refs"), re.MULTILINE)
    return _text(git / name) or _text(common / name) or (packed[1] if packed else "")


def _commit_of_archive(path: Path) -> str:
    """`git archive` puts the commit into the file; in a checkout it holds a placeholder."""
    return _text(path).removeprefix("node: ")
