"""Seconds and peak memory of looks at a large inbox: 100,000 small DICOM files, 10,000 series, all of them finished.

First look: every header is read, and kept in the index. Second: none is. Third: what `covct watch` does when nothing
has changed. Rerun: `covct scan` as a process over finished series (made here, since segmenting them would take days),
first without a note that they are finished, then as every night. Copy the table to RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.example_report import example_report  # noqa: E402

UIDS = {"StudyInstanceUID": "1.2.3.1000000001", "SeriesInstanceUID": "1.2.3.2000000001"}
SLICE_UID = "1.2.3.3000000001"
PLACE = "1111.25"


def template() -> bytes:
    """A slice of 16 x 16 pixels with values of fixed length to be replaced: 100,000 times pydicom takes minutes."""
    import io

    import pydicom

    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = SLICE_UID
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header = pydicom.Dataset()
    header.file_meta = meta
    for keyword, value in {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": SLICE_UID, **UIDS,
        "FrameOfReferenceUID": "1.2.3.4", "Modality": "CT", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientName": "", "PatientID": "", "InstanceNumber": 1, "AcquisitionNumber": 1, "SliceThickness": 5,
        "ImagePositionPatient": [0, 0, PLACE], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [3, 3],
        "Rows": 16, "Columns": 16, "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "RescaleSlope": 1,
        "RescaleIntercept": -1024, "RescaleType": "HU", "ConvolutionKernel": "B60f",
    }.items():  # fmt: skip
        setattr(header, keyword, value)
    header.PixelData = bytes(512)
    stream = io.BytesIO()
    header.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def write_inbox(folder: Path, series: int, slices: int) -> None:
    """Studies of one series each, a folder a study."""
    contents = template()
    for index in range(series):
        (folder / f"{index:06}").mkdir(parents=True)
        of_series = contents
        for uid in UIDS.values():
            of_series = of_series.replace(uid.encode(), f"{uid[:-9]}{index + 1:09}".encode())
        for number in range(slices):
            uid = f"{SLICE_UID[:-9]}{index * slices + number:09}"
            one = of_series.replace(SLICE_UID.encode(), uid.encode())
            one = one.replace(PLACE.encode(), f"{1000 + 5 * number}.25".encode())
            (folder / f"{index:06}" / f"{number:04}.dcm").write_bytes(one)


def finish(order, database: Path) -> None:
    """Outcomes and reports as `scan` leaves them, of every series."""
    from covct.disk import state
    from covct.intake.discover import Discovery, Sighting, assemble
    from covct.unattended.inbox import survey
    from covct.unattended.index import open_index
    from covct.unattended.plan import card_hashes, plan

    with open_index(database) as index:
        studies = survey(order.sources, order.out, index).studies.values()
        series = assemble((file for study in studies for file in study.files), index.facts_of, Sighting())
    report = example_report()
    for job in plan(order, Discovery(series, (), 0), card_hashes(order.weights)):
        stage = state.new_stage(order.out, job.work_key)
        (stage / "report.json").write_text(json.dumps(report))
        stage.joinpath("outcome.json").write_text(
            json.dumps({
                "status": "done", "work_key": job.work_key, "files": {"report.json": "0" * 64}, "covct_version": "0",
                "study_instance_uid": job.series.study_uid, "series_instance_uid": job.series.series_uid,
                "slices": "0" * 64, "first_slices": "0" * 64, "signatures": [job.signature],
            })
        )  # fmt: skip
        (order.out / job.series.folder).parent.mkdir(parents=True, exist_ok=True)
        stage.rename(order.out / job.series.folder)


def timed(what: str, function: Callable[[], Any]) -> None:
    start, used = time.perf_counter(), time.process_time()
    function()
    seconds = f"{time.perf_counter() - start:8.2f} s {time.process_time() - used:8.2f} s CPU"
    print(f"{what:44} {seconds} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:6.0f} MiB", flush=True)


def rerun(inbox: Path, out: Path) -> None:
    """One `covct scan` process with nothing to do."""
    command = [sys.executable, "-X", "importtime", "-m", "covct", "scan", str(inbox), "--out", str(out), "--json"]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        output = process.stdout.read()
        _, code, usage = os.wait4(process.pid, 0)
        errors.seek(0)
        imported = {line.rsplit("|", 1)[-1].strip() for line in errors if line.startswith("import time:")}
    last = json.loads(output.splitlines()[-1])
    if code or "done" in last:
        raise SystemExit(f"covct scan ended with {os.waitstatus_to_exitcode(code)}: {last}")
    heavy = sorted(imported & {"keras", "tensorflow", "highdicom", "SimpleITK"}) or "none"
    what = f"rerun, {last['done before']} finished before"
    seconds = f"{time.perf_counter() - start:8.2f} s {usage.ru_utime + usage.ru_stime:8.2f} s CPU"
    print(f"{what:44} {seconds} {usage.ru_maxrss / 1024:6.0f} MiB, heavy imports: {heavy}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=10_000)
    parser.add_argument("--slices", type=int, default=10, help="of each series, a file a slice")
    parser.add_argument("--folder", type=Path, help="where to work; on the file system to be measured")
    arguments = parser.parse_args()
    from covct.networks.cards import default_weights_folder
    from covct.unattended import batch
    from covct.unattended.inbox import Settling, survey
    from covct.unattended.index import open_index

    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        inbox, out = Path(name) / "in", Path(name) / "out"
        (out / ".covct").mkdir(parents=True)
        database = out / ".covct" / batch.INDEX_NAME
        timed("(write the inbox)", lambda: write_inbox(inbox, arguments.series, arguments.slices))
        time.sleep(2.5)  # what changed just now is not trusted to have come to rest
        with open_index(database) as index:
            timed("first look: every header read", lambda: survey((inbox,), out, index))
        with open_index(database) as index:
            settling = Settling(30, "", (inbox,))
            for what in ("second look: by the index on disk", "third look: in memory, as watch looks"):
                timed(what, lambda: settling.ready(survey((inbox,), out, index), index, 0))
                index.sweep()
        files = arguments.series * arguments.slices
        print(f"{'index':44} {database.stat().st_size / 2**20:8.1f} MiB for {files} files")
        order = batch.Order((inbox,), out, default_weights_folder())
        timed("(make outcomes)", lambda: finish(order, database))
        for _ in range(2):
            rerun(inbox, out)


if __name__ == "__main__":
    main()
