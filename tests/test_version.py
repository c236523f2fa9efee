"""One commit has one version, wherever it is read; results name it."""

import os
import subprocess
from pathlib import Path

import pytest
from pydicom.valuerep import validate_value

import covct
from covct import version
from covct.version import RELEASE, full_version
from support.checkout import ROOT
from support.running import invoke


def git(folder: Path, *arguments: str) -> str:
    identity = {f"GIT_{who}_{what}": "covct" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **identity},
    ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A repository of three commits and no tag, with the package's folder and the file that archives fill in."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "covct").mkdir()
    (folder / "covct" / "version.py").write_text("")
    for name in (".gitattributes", ".git_archival.txt"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    for number in range(3):
        git(folder, "commit", "--quiet", "--allow-empty", f"--message={number}")
    return folder


@pytest.fixture(scope="module")
def expected(checkout) -> str:
    return f"{RELEASE}+g{git(checkout, 'rev-parse', 'HEAD')[:7]}"


def cloned(checkout, folder, *how: str) -> Path:
    git(folder, "clone", "--quiet", *how, checkout.as_uri(), "clone")
    return folder / "clone"


def with_packed_references(checkout, folder):
    clone = cloned(checkout, folder)
    git(clone, "pack-refs", "--all")
    return clone


def of_no_branch(checkout, folder):
    clone = cloned(checkout, folder)
    git(clone, "checkout", "--quiet", "--detach")
    return clone


def worktree(checkout, folder):
    clone = cloned(checkout, folder)
    git(clone, "worktree", "add", "--quiet", "-b", "side", str(folder / "side"))
    return folder / "side"


def worktree_with_packed_references(checkout, folder):
    tree = worktree(checkout, folder)
    git(tree, "pack-refs", "--all")
    return tree


def archive(checkout, folder):
    git(checkout, "archive", "--output", str(folder / "covct.tar"), "HEAD")
    subprocess.run(["tar", "-xf", "covct.tar"], cwd=folder, check=True)
    return folder


PLACES = {
    "checkout": lambda checkout, folder: checkout,
    "clone": cloned,
    "shallow clone": lambda checkout, folder: cloned(checkout, folder, "--depth=1"),
    "packed references": with_packed_references,
    "no branch": of_no_branch,
    "worktree": worktree,
    "worktree, packed references": worktree_with_packed_references,
    "archive": archive,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_commit_has_one_version_wherever_it_is_read(place, checkout, expected, tmp_path):
    assert full_version(PLACES[place](checkout, tmp_path) / "covct") == expected


def test_an_image_is_told_its_commit(tmp_path, monkeypatch):
    """Its build has no .git, and an archive's file that nobody filled in: `docker build --build-arg REVISION=...`."""
    (tmp_path / ".git_archival.txt").write_bytes((ROOT / ".git_archival.txt").read_bytes())
    monkeypatch.setenv("COVCT_COMMIT", "0123456789" * 4)
    assert full_version(tmp_path / "covct") == f"{RELEASE}+g0123456"


@pytest.mark.parametrize("commit", ["", "unknown", "$Format:%H$", "main; rm -rf /"])
def test_a_commit_that_nobody_knows_is_left_out(commit, tmp_path, monkeypatch):
    monkeypatch.setenv("COVCT_COMMIT", commit)
    (tmp_path / ".git_archival.txt").write_text(f"node: {commit}\n")
    assert full_version(tmp_path / "covct") == RELEASE


def test_a_wheel_says_what_its_build_knew_and_a_checkout_what_it_is_now(checkout, expected, tmp_path):
    """An editable installation leaves the file behind, and later commits do not change it."""
    installed = tmp_path / "site-packages" / "covct"
    here = cloned(checkout, tmp_path)
    for package in (installed, here / "covct"):
        package.mkdir(parents=True, exist_ok=True)
        (package / "VERSION").write_text("0.1.9\n")
    assert full_version(installed) == "0.1.9"
    assert full_version(here / "covct") == expected


def test_a_release_is_known_by_its_number(checkout, monkeypatch):
    monkeypatch.setattr(version, "RELEASE", "0.2.0")
    assert full_version(checkout / "covct") == "0.2.0"


def test_the_version_is_printed_and_fits_dicom():
    assert invoke("--version").stdout.startswith(f"covct {covct.__version__}. {covct.RESEARCH_USE}")
    validate_value("LO", covct.__version__, 2)
    validate_value("LO", f"covct {covct.__version__} lungs, opacity (research use only)", 2)
    validate_value("SH", RELEASE, 2)
