"""`--lobes atlas`: lobes by the shape of the lungs, the score of 0 to 25, and what shows them, marked approximate."""

import csv
import json
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pydicom
import pytest

from covct.errors import WeightsError
from covct.exchange.fhir import bundle_of
from covct.intake.gate_rules import ValidFor
from covct.networks.cards import default_weights_folder, file_sha256
from covct.networks.lobe_card import lobe_card, read_lobes
from covct.outputs import Outputs
from covct.pipeline.burden import measure_burden
from covct.pipeline.lobes import by_lobe, lobe_score, lobe_scores, lobes_part
from covct.results.verify import verify
from covct.terms import LEFT_LUNG, LOBE_SEGMENTS, LOBES, RIGHT_LUNG, SEGMENTS
from covct.unattended import batch
from covct.unattended.plan import card_hashes
from covct.voxels.labels import INFECTED, Labels
from covct.voxels.lobes import NODES, REACH_MM, Atlas, boxes_of, counted, lobes_of
from support.chests import SMALL
from support.line import night
from support.thresholds import make_networks

FORMATS = ("seg", "sr", "nifti", "pdf", "page")
NOBODY = np.zeros((SMALL["slices"], SMALL["rows"], SMALL["columns"]), bool)


def known_distances(box, side):
    """Distance functions of (z, y) in the lung's box, 0 to 1: an oblique fissure, and on the right a horizontal one."""
    oblique = lambda z, y: (z - 0.9 + 0.7 * (y - 0.0)) * 100  # noqa: E731  from high behind to low in front
    horizontal = lambda z, y: (0.5 - z) * 100  # noqa: E731  above it is the upper lobe
    return [oblique, horizontal] if side == RIGHT_LUNG else [oblique]


def known_lobes(lungs):
    """Lobes of a phantom by its own geometry: planes in each lung's box. (slices, rows, columns) uint8."""
    lobes = np.zeros(lungs.shape, np.uint8)
    for side, box in zip((RIGHT_LUNG, LEFT_LUNG), boxes_of(lungs), strict=True):
        z, y, _ = np.meshgrid(*[(np.arange(n) + 0.5 - a) / (b - a) for n, (a, b) in zip(lungs.shape, box, strict=True)],
                              indexing="ij")  # fmt: skip
        lower, *upper = (distance(z, y) > 0 for distance in known_distances(box, side))
        drawn = np.where(lower, 3, np.where(upper[0], 1, 2)) if upper else np.where(lower, 5, 4)
        lobes[lungs == side] = drawn[lungs == side]
    return lobes


def atlas_of(people):
    """An atlas of lungs whose lobes are known."""
    nodes = (np.arange(NODES) + 0.5) / NODES
    z, y, _ = np.meshgrid(nodes, nodes, nodes, indexing="ij")
    courses = [distance(z, y) for side in (RIGHT_LUNG, LEFT_LUNG) for distance in known_distances(None, side)]
    fissures = np.clip(np.stack(courses), -REACH_MM, REACH_MM).astype(np.float32)
    shapes = np.stack([counted(lungs, NOBODY).shapes for lungs in people])
    return Atlas.decoded(Atlas(shapes, np.stack([fissures] * len(people))).coded())


def packed(lungs, infection):
    labels = Labels(lungs.shape)
    for index, (lung, sick) in enumerate(zip(lungs, infection, strict=True)):
        labels[index] = lung + np.uint8(INFECTED) * (sick & (lung > 0))
    return labels


@pytest.fixture(scope="module")
def atlas(phantom):
    """Of lungs that are cut above, below or in front: none is the phantom's."""
    people = [phantom.lungs.copy() for _ in range(4)]
    people[0][:10], people[1][18:], people[2][:, :60], people[3][:, 75:] = 0, 0, 0, 0
    return atlas_of(people)


@pytest.mark.parametrize(
    ("percent", "score"),
    [
        (0, 0),
        (0.001, 1),
        (4.999, 1),
        (5, 2),
        (25, 2),
        (25.001, 3),
        (50, 3),
        (50.001, 4),
        (75, 4),
        (76, 5),
        (100, 5),
    ],
)
def test_edges_of_the_score(percent, score):
    assert lobe_score(percent) == score
    assert lobe_scores(np.array([percent])).tolist() == [score]


def test_lobes_of_a_phantom_lie_where_its_geometry_puts_them(phantom, atlas):
    """Its shape is none of the atlas's. By voxel, and left and right are the patient's."""
    drawn = known_lobes(phantom.lungs)
    found = np.stack(list(lobes_of(atlas, phantom.lungs, NOBODY)[0]))
    assert ((found > 0) == (phantom.lungs > 0)).all()
    for lobe in LOBES:
        ours, theirs = found == lobe.number, drawn == lobe.number
        assert 2 * np.count_nonzero(ours & theirs) / (ours.sum() + theirs.sum()) > 0.95, lobe.words
        assert set(np.unique(phantom.lungs[ours])) == {lobe.lung}


def measured(phantom, atlas, infection, hu=None):
    card = read_lobes(default_weights_folder() / "lobes.json")[0]
    labels = packed(phantom.lungs, infection)
    hu = phantom.volume.array if hu is None else hu
    burden = measure_burden(hu, labels.lungs, labels.infection, 27.0)
    return by_lobe(card, atlas, labels, burden, 27.0)[1]


def test_score_of_opacity_whose_lobe_is_known(phantom, atlas):
    """All of the right lower lobe, and two fifths of the left upper one: by the known lobes 5 and 3."""
    drawn = known_lobes(phantom.lungs)
    apex = (drawn == 4) & (np.arange(len(drawn)) <= np.quantile(np.nonzero(drawn == 4)[0], 0.4))[:, None, None]
    found = measured(phantom, atlas, (drawn == 3) | apex)
    truth = {lobe.name: 100 * np.mean(((drawn == 3) | apex)[drawn == lobe.number]) for lobe in LOBES}
    for name, lobe in found.lobes.items():
        low, high = lobe.percent_interval
        assert low <= lobe.infection_percent <= high
        assert lobe.infection_percent == pytest.approx(truth[name], abs=6), name
    assert found.lobes["right_lower_lobe"].score == 5
    assert found.lobes["left_upper_lobe"].score == 3
    assert found.score == sum(lobe.score for lobe in found.lobes.values())
    assert found.score_interval[0] <= found.score <= found.score_interval[1]


def test_a_mostly_dense_lung_has_volumes_but_no_scores(phantom, atlas):
    """Its shape is guessed where it borders on soft tissue, and so would be its fissures."""
    hu = np.where(phantom.lungs == LEFT_LUNG, -300, phantom.volume.array)
    found = measured(phantom, atlas, phantom.infection, hu)
    scores = {name: lobe.score for name, lobe in found.lobes.items()}
    assert [name for name, score in scores.items() if score is None] == ["left_upper_lobe", "left_lower_lobe"]
    assert found.lobes["left_upper_lobe"].volume_ml > 0
    assert (found.score, found.score_interval) == (None, None)
    [why] = found.withheld
    assert why.startswith("the left lung is mostly dense (mean -300 HU")


def test_what_the_input_does_not_allow_is_null(phantom, atlas):
    found = measured(phantom, atlas, phantom.infection)
    part = lobes_part(found, ValidFor(volume=False, percent=False, hu_bands=True))
    assert (part["score"], part["score_interval"]) == (None, None)
    assert {value for lobe in part["by_lobe"].values() for value in lobe.values()} == {None}


def test_errors_of_the_atlas_make_the_interval(phantom, atlas):
    """People whose fissures run elsewhere: the interval grows, and holds the figure."""
    sick = known_lobes(phantom.lungs) == 3
    sure = measured(phantom, atlas, sick).lobes["right_middle_lobe"].percent_interval
    rng = np.random.default_rng(0)
    others = replace(atlas, fissures=np.repeat(atlas.fissures, 10, 0), shapes=np.repeat(atlas.shapes, 10, 0))
    moved = replace(others, fissures=others.fissures + rng.normal(0, 6, (40, 1, 1, 1, 1)).astype(np.float32))
    low, high = measured(phantom, moved, sick).lobes["right_middle_lobe"].percent_interval
    assert high - low > sure[1] - sure[0] + 5


def test_the_atlas_that_is_shipped_is_the_one_of_its_card():
    card, shipped = read_lobes(default_weights_folder() / "lobes.json")
    assert len(shipped.shapes) == card.people == 51
    assert card.licence == "CC BY-NC-SA 4.0"
    assert shipped.shapes.min() >= 0 and shipped.shapes.max() == 1
    assert np.abs(shipped.fissures).max() == REACH_MM


@pytest.mark.parametrize("damage", ["altered", "no file", "not an atlas", "no card"])
def test_an_atlas_that_is_not_what_its_card_says_is_refused(damage, tmp_path):
    for name in ("lobes.json", "lobes.npy"):
        (tmp_path / name).write_bytes((default_weights_folder() / name).read_bytes())
    card, atlas = tmp_path / "lobes.json", tmp_path / "lobes.npy"
    if damage == "altered":
        atlas.write_bytes(atlas.read_bytes()[:-1] + b"\x01")
    elif damage == "no file":
        atlas.unlink()
    elif damage == "not an atlas":
        np.save(atlas, np.zeros((51, 5, 12, 12, 11), np.int8))
        card.write_text(json.dumps({**json.loads(card.read_text()), "sha256": file_sha256(atlas)}))
    else:
        card.write_text("{}")
    with pytest.raises(WeightsError, match="lobes"):
        read_lobes(card)


def test_only_who_asks_for_lobes_gets_another_work_key(weights):
    assert "lobes" not in card_hashes(weights)
    assert card_hashes(weights, "atlas") == {
        **card_hashes(weights), "lobes": file_sha256(default_weights_folder() / "lobes.json"),
    }  # fmt: skip
    (weights / "lobes.json").write_text("{}")
    assert lobe_card(weights) == weights / "lobes.json"
    with pytest.raises(WeightsError):
        card_hashes(weights, "atlas")


@pytest.fixture(scope="module")
def done(phantom_series, tmp_path_factory):
    """A night with lobes."""
    return night(phantom_series, out=tmp_path_factory.mktemp("lobes") / "out", formats=FORMATS, lobes="atlas")


def lobe_figures(done):
    return {lobe: done.report["lobes"]["by_lobe"][lobe.name] for lobe in LOBES}


@pytest.mark.slow
def test_verify_finds_nothing_wrong_with_figures_by_lobe(done, phantom_series):
    """By masks of lobes in the SEG; every number of the SR and the table is known, and derived anew."""
    [verdict] = verify(done.out, [phantom_series], recompute=True)
    assert not verdict.defects


@pytest.mark.slow
def test_verify_finds_a_changed_figure(done, phantom_series, tmp_path):
    out = shutil.copytree(done.out, tmp_path / "out")
    [path] = out.glob("*/*/report.json")
    report = json.loads(path.read_text())
    report["lobes"]["by_lobe"]["right_lower_lobe"]["infection_percent"] += 1
    path.write_text(json.dumps(report))
    [verdict] = verify(out, [phantom_series], recompute=True)
    found = [one.message for one in verdict.defects if one.slug in ("figure-differs", "report-contradicts-itself")]
    assert any("right_lower_lobe" in message for message in found), verdict.defects


@pytest.mark.slow
def test_seg_has_a_segment_for_each_lobe(done):
    seg = pydicom.dcmread(done.result / "segmentation.seg.dcm")
    assert [str(s.SegmentLabel) for s in seg.SegmentSequence] == [s.label for s in (*SEGMENTS, *LOBE_SEGMENTS)]
    assert all("approximate" in s.label for s in LOBE_SEGMENTS)
    lobe = seg.SegmentSequence[3]
    kind = lobe.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue) == ("45653009", "24028007")
    assert (
        done.report["lobes"]["atlas"]["sha256"][:16]
        in lobe.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    )
    lungs, lobes = (np.asarray(nibabel.load(done.result / f"{name}.nii.gz").dataobj) for name in ("lungs", "lobes"))
    assert ((lungs > 0) == (lobes > 0)).all()


@pytest.mark.slow
def test_sr_tells_each_lobe_and_the_score_with_its_interval(done):
    sr = pydicom.dcmread(done.result / "measurements.sr.dcm")
    numbers = {}
    for group in (g for part in sr.ContentSequence for g in part.get("ContentSequence", [])):
        content = group.get("ContentSequence", [])
        tracked = [c.TextValue for c in content if c.ConceptNameCodeSequence[0].CodeValue == "112039"]
        for item in (c for c in content if c.ValueType == "NUM" and c.MeasuredValueSequence):
            numbers[tracked[0] if tracked else "", item.ConceptNameCodeSequence[0].CodeValue] = item
    for lobe, figures in lobe_figures(done).items():
        named = f"covct {LOBE_SEGMENTS[lobe.number - 1].label}"
        coded = {"118565006": "volume_ml", "lobe-percent": "infection_percent", "lobe-score": "score"}
        for code, figure in coded.items():
            item = numbers[named, code]
            assert float(item.MeasuredValueSequence[0].NumericValue) == pytest.approx(figures[figure])
            methods = [c.ConceptCodeSequence[0].CodeValue for c in item.ContentSequence if c.ValueType == "CODE"]
            assert "lobes-of-atlas" in methods
    whole = numbers["covct Five lobes (approximate)", "lobes-score"]
    assert int(whole.MeasuredValueSequence[0].NumericValue) == done.report["lobes"]["score"]
    texts = [str(element.value) for element in sr.iterall() if element.keyword == "TextValue"]
    assert any("Approximate: lobes are put where lungs of this shape have them" in text for text in texts)


@pytest.mark.slow
def test_table_and_pages_tell_the_score_as_approximate(done):
    lobes = done.report["lobes"]
    with open(done.out / "summary.csv", newline="") as file:
        [row] = csv.DictReader(file)
    low, high = lobes["score_interval"]
    assert [row[f"lobes_score{end}"] for end in ("", "_low", "_high")] == [str(lobes["score"]), str(low), str(high)]
    for lobe, figures in lobe_figures(done).items():
        assert float(row[f"{lobe.name}_percent"]) == figures["infection_percent"]
    page = (done.result / "study.html").read_text()
    assert f"CT severity score by lobes: {lobes['score']} of 25" in page and "Approximate: lobes are put" in page
    morning = (done.out / "index.html").read_text()
    assert f"score by lobes {lobes['score']}" in morning and "of 25, approximate" in morning


@pytest.mark.slow
def test_lobes_are_added_from_the_masks_that_are_there(done, phantom_series, tmp_path):
    """A call that asks for NIfTI later gets the lobes that a call for all of them at once would have written."""
    out = tmp_path / "out"
    night(phantom_series, out=out, formats=("seg",), lobes="atlas")
    added = night(phantom_series, out=out, formats=("nifti",), lobes="atlas")
    assert added.said("done")[0]["added"] == ["nifti"]
    for name in ("lobes.nii.gz", "lungs.nii.gz"):
        assert file_sha256(added.result / name) == file_sha256(done.result / name)


@pytest.mark.slow
def test_a_label_map_has_no_lobes(phantom_series, tmp_path, weights):
    """It holds one label a voxel; the figures are there all the same."""
    outputs = Outputs(("seg", "sr"), "labelmap")
    order = batch.Order((phantom_series,), tmp_path / "out", weights, outputs, lobes="atlas")
    assert batch.scan(order, make_networks, lambda event: None)["done"] == 1
    [verdict] = verify(order.out, [phantom_series])
    assert not verdict.defects
    [report] = order.out.glob("*/*/report.json")
    assert json.loads(report.read_text())["lobes"]["score"] is not None


@pytest.mark.slow
def test_fhir_tells_each_lobe_by_its_own_code(done):
    bundle = bundle_of(done.report, {"seg": "binary"}, "1.2/1.2.3")
    pytest.importorskip("fhir.resources.R4B.bundle").Bundle.model_validate_json(json.dumps(bundle))
    told = [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == "Observation"]
    scores = {
        one["bodySite"]["coding"][0]["code"]: one["valueQuantity"]["value"]
        for one in told
        if one["code"]["coding"][0]["code"] == "lobe-score"
    }
    assert list(scores) == ["42400003", "72481006", "266005", "44714003", "41224006"]
    assert list(scores.values()) == [figures["score"] for figures in lobe_figures(done).values()]
    assert sum(one["code"]["coding"][0]["code"] == "246112005" for one in told) == 1, "the class is of both lungs alone"
