"""Files of finished studies are moved: never over another, never half, and a crash anywhere loses nothing."""

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest

from covct.disk import state
from covct.errors import UsageError
from covct.unattended import moved_file
from covct.unattended.file_status import status_of
from covct.unattended.move_done import check_place, move_study, moved_before, put_back


@pytest.fixture
def inbox(tmp_path):
    for number in range(3):
        path = tmp_path / "in" / "a" / "s" / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"slice {number}".encode())
        os.utime(path, (10**9, 10**9))
    return tmp_path / "in"


@pytest.fixture(params=["same file system", "another"])
def system(request, monkeypatch):
    """Moving by renaming, and by copying as if the directory lay on another file system."""
    if request.param == "another":
        rename = os.rename

        def across(source, target):
            if "/in/" in str(source) and "/in/" not in str(target):
                raise OSError(errno.EXDEV, "Invalid cross-device link")
            rename(source, target)

        monkeypatch.setattr(os, "rename", across)


def files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and ".covct" not in str(p)}


def move(inbox, processed=None, **keywords):
    """Move what lies there, as it is or as it was when it was processed."""
    processed = processed or there(inbox)
    return move_study("1.2", processed, [inbox], inbox.parent / "done", **keywords)


def there(inbox):
    return {path: status_of(path) for path in sorted(inbox.rglob("*.dcm"))}


def test_the_path_below_the_source_is_kept(inbox, system):
    before = files(inbox)
    assert move(inbox) == []
    assert files(inbox.parent / "done") == before
    assert (inbox.parent / "done/a/s/0.dcm").stat().st_mtime == 10**9
    assert list(inbox.iterdir()) == [], "folders left empty go, the inbox stays"


def test_another_file_of_the_same_name_is_not_overwritten(inbox, system):
    other = inbox.parent / "done/a/s/1.dcm"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"of another study")
    assert move(inbox) == []
    assert files(inbox.parent / "done")["a/s/1.dcm"] == b"of another study"
    assert files(inbox.parent / "done")["a/s/1.2.dcm"] == b"slice 1"
    assert inbox.parent / "done" / "a" / "s" / "1.2.dcm" in moved_before(inbox.parent / "done", "1.2"), "found again"


def test_the_same_file_sent_again_is_there_once(inbox, system):
    before = files(inbox)
    move(inbox)
    for name, contents in before.items():
        (inbox / name).parent.mkdir(parents=True, exist_ok=True)
        (inbox / name).write_bytes(contents)
    move(inbox)
    assert files(inbox.parent / "done") == before
    assert not files(inbox)


class Killed(BaseException):
    pass


CALLS = ("open", "rename", "replace", "link", "unlink", "fsync", "rmdir", "mkdir")


def test_killed_at_any_call_nothing_is_lost_and_a_rerun_completes(inbox, system, monkeypatch):
    """At each call that changes a disk, before and after it."""
    before = files(inbox)
    done = inbox.parent / "done"
    real = {name: getattr(os, name) for name in CALLS}
    for moment in range(1000):
        left = [moment]

        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, _before(real[name], left)) if name != "rename" else patch.setattr(
                    os, name, _both(os.rename, left)
                )
            try:
                move(inbox)
                finished = True
            except Killed:
                finished = False
        everything = {**files(done), **files(inbox)} if done.exists() else files(inbox)
        assert set(before.values()) <= set(everything.values())
        move(inbox)
        whole = {name: contents for name, contents in files(done).items() if contents}
        assert set(whole.values()) == set(before.values())
        assert len(whole) == len(before)
        assert not files(inbox)
        if finished:
            break
        _reset(inbox, done, before)
    assert 10 < moment < 999


def _before(call, left):
    """A call that dies before it is made, once as many calls as `left` says were made."""

    def dying(*arguments, **keywords):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return call(*arguments, **keywords)

    return dying


def _both(rename, left):
    def call(source, target):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        rename(source, target)

    return call


def _reset(inbox, done, before):
    import shutil

    shutil.rmtree(done)
    for name, contents in before.items():
        (inbox / name).parent.mkdir(parents=True, exist_ok=True)
        (inbox / name).write_bytes(contents)


def test_a_copy_that_differs_leaves_the_source(inbox, monkeypatch):
    rename = os.rename

    def across(source, target):
        if "/in/" in str(source) and "/in/" not in str(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", across)
    monkeypatch.setattr(moved_file.shutil, "copyfile", lambda source, target: Path(target).write_bytes(b"slice X"))
    before = files(inbox)
    assert len(move(inbox)) == 3
    assert files(inbox) == before
    assert not files(inbox.parent / "done"), "and nothing half is left"


def test_a_full_disk_leaves_the_source(inbox, monkeypatch):
    def full(source, target, rename=os.rename):
        if ".covct" not in Path(target).parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", full)
    before = files(inbox)
    assert move(inbox)[0] == "No space left on device"
    assert files(inbox) == before
    assert not files(inbox.parent / "done")


def test_a_share_that_cannot_fsync_folders_is_moved_to(inbox, system, monkeypatch):
    """As SMB: each move was reported as failed, and its source stayed until the next pass."""
    fsync = os.fsync

    def no_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    before = files(inbox)
    assert move(inbox) == []
    assert files(inbox.parent / "done") == before
    assert not files(inbox)


def replaced(path):
    """By a sender who writes beside and renames."""
    path.with_suffix(".new").write_bytes(b"corrected")
    os.replace(path.with_suffix(".new"), path)


def rewritten(path):
    """By a sender who writes in place."""
    path.write_bytes(b"corrected")


@pytest.mark.parametrize("sender", [replaced, rewritten])
@pytest.mark.parametrize("moment", ["look", "taken", "put in place"])
def test_a_slice_that_its_sender_replaces_meanwhile_stays_to_be_processed(inbox, system, monkeypatch, sender, moment):
    """Between the last look and each rename. On another file system it was removed, and existed nowhere."""
    victim, before, processed = inbox / "a/s/1.dcm", files(inbox), there(inbox)
    rename, struck = os.rename, []

    def overtaken(source, target):
        taking = moved_file.ASIDE.fullmatch(Path(target).name) and source == victim
        placing = moved_file.ASIDE.fullmatch(Path(source).name) and "1.dcm" in str(source)
        if not struck and ((moment == "taken" and taking) or (moment == "put in place" and placing)):
            struck.append(moment)
            sender(victim if taking else source)
        rename(source, target)

    if moment == "look":
        sender(victim)
    monkeypatch.setattr(os, "rename", overtaken)
    assert move(inbox, processed) == [
        "a file was replaced while the study was being moved; the study will be read again"
    ]
    assert struck or moment == "look"
    assert files(inbox)["a/s/1.dcm"] == b"corrected"
    assert b"corrected" not in files(inbox.parent / "done").values(), "it was not processed"
    assert {*files(inbox).values(), *files(inbox.parent / "done").values()} >= {b"slice 0", b"slice 2"}
    assert move(inbox) == []
    moved = files(inbox.parent / "done")
    assert moved == {**before, "a/s/1.dcm": b"corrected"}
    assert not files(inbox)


@pytest.mark.parametrize("sender", [replaced, rewritten])
def test_a_slice_that_comes_while_the_one_before_it_is_moved_stays(inbox, system, monkeypatch, sender):
    """The one that was processed goes, and the new one is not taken for it."""
    victim, rename = inbox / "a/s/1.dcm", os.rename

    def overtaken(source, target):
        rename(source, target)
        if source == victim:
            sender(victim)

    monkeypatch.setattr(os, "rename", overtaken)
    before = files(inbox)
    assert move(inbox) == []
    assert files(inbox) == {"a/s/1.dcm": b"corrected"}
    assert files(inbox.parent / "done") == before


def test_a_slice_that_is_replaced_twice_meanwhile_is_kept_in_both_forms(inbox, system, monkeypatch):
    victim, rename = inbox / "a/s/1.dcm", os.rename

    def overtaken(source, target):
        if source == victim:
            replaced(victim)
        rename(source, target)
        if source == victim:
            victim.write_bytes(b"corrected again")

    monkeypatch.setattr(os, "rename", overtaken)
    assert len(move(inbox)) == 1
    assert files(inbox)["a/s/1.dcm"] == b"corrected again"
    assert files(inbox.parent / "done")["a/s/1.replaced.dcm"] == b"corrected"
    assert inbox.parent / "done/a/s/1.replaced.dcm" not in moved_before(inbox.parent / "done", "1.2")


def test_a_share_without_links_keeps_a_replaced_slice_where_it_is_found(inbox, system, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    victim, rename = inbox / "a/s/1.dcm", os.rename

    def overtaken(source, target):
        if source == victim:
            replaced(victim)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", none)
        patch.setattr(os, "rename", overtaken)
        assert len(move(inbox)) == 1
    assert b"corrected" in files(inbox).values()
    assert move(inbox) == []
    assert files(inbox.parent / "done")["a/s/1.dcm"] == b"corrected", "under its name"


def test_a_file_of_the_longest_name_is_moved(inbox, system):
    name = "n" * 251 + ".dcm"
    (inbox / "a" / "s" / name).write_bytes(b"long")
    assert move(inbox) == []
    assert files(inbox.parent / "done")[f"a/s/{name}"] == b"long"


def test_new_folders_are_on_the_disk_before_a_file_goes_there(inbox, system, monkeypatch):
    """A power failure must not lose the folder, which only its parent knows, with the file in it."""
    done, synced, fsync, rename = inbox.parent / "done", [], os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    known = []

    def renamed(source, target):
        rename(source, target)
        if str(target).endswith("0.dcm") and done in Path(target).parents:
            known.extend(synced)

    monkeypatch.setattr(os, "rename", renamed)
    move(inbox)
    assert {str(inbox.parent), str(done), str(done / "a"), str(done / ".covct")} <= set(known)


# Headers, and the files with their voxels

HEADER = "NRRD0004\ntype: short\ndimension: 3\nsizes: 1 1 1\nencoding: raw\nendian: little\n{}data file: scan.raw\n\n"


def send_pair(inbox, comment, voxels):
    """Returns what was sent."""
    folder = inbox / "v"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scan.raw").write_bytes(voxels)
    (folder / "scan.nhdr").write_text(HEADER.format(f"# {comment}\n"))
    return (folder / "scan.nhdr").read_bytes(), voxels


def move_pairs(inbox):
    """As a look does: what was left aside first, then what is whole."""
    put_back([path for path in inbox.rglob("*") if moved_file.ASIDE.fullmatch(path.name)], inbox.parent / "done")
    found = [file for header in sorted(inbox.rglob("*.nhdr")) for file in (header, header.with_name("scan.raw"))]
    return move_study("nrrd-1", {path: status_of(path) for path in found}, [inbox], inbox.parent / "done")


def pairs(done):
    """Header and voxels, wherever a header lies; nothing else lies there."""
    headers = [path for path in done.rglob("*.nhdr") if path.stat().st_size]
    found = [(path.read_bytes(), path.with_name("scan.raw").read_bytes()) for path in headers]
    assert len([contents for contents in files(done).values() if contents]) == 2 * len(found)
    return sorted(found)


@pytest.fixture
def pair_inbox(tmp_path):
    return tmp_path / "in"


@pytest.mark.parametrize("comments", ["same header", "other headers"])
def test_headers_of_one_name_keep_their_own_voxels(comments, pair_inbox, system):
    """The second header went where the first one's voxels lay, or was taken for moved before."""
    sent = []
    for night in range(3):
        comment = "a" if comments == "same header" else str(night)
        sent.append(send_pair(pair_inbox, comment, f"voxels {night}".encode()))
        assert move_pairs(pair_inbox) == []
    assert pairs(pair_inbox.parent / "done") == sorted(sent)
    assert not files(pair_inbox)
    assert len(moved_before(pair_inbox.parent / "done", "nrrd-1")) == 6


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True])
def test_killed_at_any_call_a_header_and_its_voxels_come_together(before, pair_inbox, system):
    done, real = pair_inbox.parent / "done", {name: getattr(os, name) for name in CALLS}
    for moment in range(1000):
        sent = [send_pair(pair_inbox, "before", b"voxels of another")] if before else []
        if before:
            move_pairs(pair_inbox)
        sent.append(send_pair(pair_inbox, "this", b"voxels"))
        left = [moment]

        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, _both(os.rename, left) if name == "rename" else _before(real[name], left))
            try:
                move_pairs(pair_inbox)
                finished = True
            except Killed:
                finished = False
        assert {*files(pair_inbox).values(), *files(done).values()} >= {one for pair in sent for one in pair}
        assert move_pairs(pair_inbox) == []
        assert pairs(done) == sorted(sent), moment
        assert not files(pair_inbox), moment
        if finished:
            break
        shutil.rmtree(done)
    assert 20 < moment < 999


def test_a_header_that_is_replaced_while_its_voxels_are_moved_keeps_them(pair_inbox, system, monkeypatch):
    header, voxels = send_pair(pair_inbox, "first", b"voxels")
    rename = os.rename

    def overtaken(source, target):
        if Path(source).name == "scan.nhdr":
            Path(source).write_text(HEADER.format("# corrected\n"))
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", overtaken)
        assert move_pairs(pair_inbox) == [
            "a file was replaced while the study was being moved; the study will be read again"
        ]
    assert files(pair_inbox) == {"v/scan.nhdr": HEADER.format("# corrected\n").encode(), "v/scan.raw": voxels}
    assert not files(pair_inbox.parent / "done")
    assert move_pairs(pair_inbox) == []
    assert pairs(pair_inbox.parent / "done") == [(HEADER.format("# corrected\n").encode(), voxels)]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_left_aside_gets_its_name_back_unless_it_is_taken(links, pair_inbox, monkeypatch):
    pair_inbox.mkdir()
    for name in ("covct-moving-0123abcd-a.raw", "covct-moving-0123abcd-b.raw"):
        (pair_inbox / name).write_bytes(b"of before")
    (pair_inbox / "b.raw").write_bytes(b"new")
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "not supported")))
    assert put_back(sorted(pair_inbox.glob("covct-moving*")), pair_inbox.parent / "done")
    left = {"a.raw": b"of before", "b.raw": b"new", "covct-moving-0123abcd-b.raw": b"of before"}
    assert files(pair_inbox) == left
    assert not put_back(sorted(pair_inbox.glob("covct-moving*")), pair_inbox.parent / "done")
    assert files(pair_inbox) == left


def test_links_and_files_from_elsewhere_stay(inbox, tmp_path):
    elsewhere = tmp_path / "elsewhere.dcm"
    elsewhere.write_bytes(b"not of the inbox")
    (inbox / "a" / "link.dcm").symlink_to(elsewhere)
    (inbox / "folder").symlink_to(tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.dcm").write_bytes(b"through a link")
    paths = [inbox / "a" / "link.dcm", elsewhere, inbox / "folder" / "x.dcm"]
    assert move_study("1.2", {path: status_of(path) for path in paths}, [inbox], tmp_path / "done") == []
    assert all(path.exists() for path in paths)
    assert not (tmp_path / "done").exists()


def test_a_marker_goes_with_the_files_so_that_it_does_not_release_the_next_study(inbox):
    (inbox / "a" / "DONE").write_text("")
    move(inbox, marker="DONE")
    assert not (inbox / "a").exists()
    assert (inbox.parent / "done" / "a" / "DONE").exists()


def test_a_folder_with_something_else_in_it_stays(inbox):
    (inbox / "a" / "notes.txt").write_text("of a person")
    move(inbox)
    assert files(inbox) == {"a/notes.txt": b"of a person"}


def test_moved_files_are_found_by_their_study(inbox):
    move(inbox)
    done = inbox.parent / "done"
    assert [path.name for path in moved_before(done, "1.2")] == ["0.dcm", "1.dcm", "2.dcm"]
    (inbox / "late.dcm").write_bytes(b"late")
    move(inbox)
    assert len(moved_before(done, "1.2")) == 4
    assert moved_before(done, "1.3") == []


def test_a_name_that_a_killed_process_had_reserved_is_no_slice(inbox, monkeypatch):
    """The empty file was read as a slice that is cut short, and its study was never moved."""

    def killed(source, target, rename=os.rename):
        if "done" in target.parts and ".covct" not in target.parts:
            raise Killed
        rename(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(moved_file.os, "rename", killed)
        move(inbox)
    assert (inbox.parent / "done/a/s/0.dcm").stat().st_size == 0
    assert moved_before(inbox.parent / "done", "1.2") == []
    assert move(inbox) == []
    assert len(moved_before(inbox.parent / "done", "1.2")) == 3


def test_two_processes_do_not_move_to_one_directory_at_a_time(inbox):
    done = inbox.parent / "done"
    done.mkdir()
    before = files(inbox)
    with state.lock(done):
        assert len(move(inbox)) == 1
    assert files(inbox) == before
    assert move(inbox) == []


@pytest.mark.parametrize(
    ("done", "wrong"), [("in", True), ("in/done", True), (".", True), ("out", True), ("out/done", True), ("d", False)]
)
def test_a_directory_where_moved_files_would_be_found_again_is_refused(tmp_path, done, wrong):
    def check():
        check_place(tmp_path / done, [tmp_path / "in"], tmp_path / "out")

    if not wrong:
        check()
        return
    with pytest.raises(UsageError, match="nor contains it"):
        check()


def test_moving_gives_a_sign_of_life_at_each_file(inbox, system):
    """Else thousands of slices copied to a slow disk look like a source that does not answer."""
    beats = []

    def alive():
        beats.append(len(files(inbox.parent / "done")))

    assert move(inbox, alive=alive) == []
    assert beats == [0, 1, 2]
