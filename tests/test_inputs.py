"""What a network sees and gives, as it is asked for: combinations that mean nothing are refused before data is read."""

from dataclasses import replace

import pytest

from covct.errors import UsageError
from covct.training.samples.inputs import arguments_for, card_fields, check_inputs, input_of, parse_patch, parse_three
from covct.training.settings import Settings, with_defaults

PLAIN = Settings("infection", 1, 8)
VOLUMES = replace(PLAIN, architecture="unet3d")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (replace(PLAIN, neighbours=8), "--neighbours 8: wanted 0 to 7"),
        (replace(PLAIN, neighbours=1, neighbours_mm=(3.0,)), "wanted one of them"),
        (replace(PLAIN, neighbours_mm=(6.0, 3.0)), "--neighbours-mm 6,3: wanted up to 7 distances, ascending"),
        (replace(PLAIN, neighbours_mm=(0.1,)), "--neighbours-mm 0.1: wanted .* 0.5 to 30 mm"),
        (replace(VOLUMES, neighbours_mm=(3.0,)), "--neighbours-mm: unet3d sees patches of volumes"),
        (replace(PLAIN, task="restorer", neighbours_mm=(3.0,)), "restorer is trained on single slices"),
        (replace(PLAIN, neighbours_mm=(3.0,), split="slice"), "--split slice: .* wanted a split by patient"),
        (replace(VOLUMES, neighbours=1), "--neighbours 1: unet3d sees patches of volumes"),
        (replace(PLAIN, task="restorer", neighbours=1), "restorer is trained on single slices"),
        (replace(VOLUMES, task="restorer"), "restorer is trained on single slices"),
        (replace(PLAIN, neighbours=1, split="slice"), "--split slice: .* wanted a split by patient"),
        (replace(VOLUMES, split="slice:90/10"), "--split slice:90/10"),
        (replace(PLAIN, patch=(16, 32, 32)), "--architecture unet3d, got unet"),
        (replace(PLAIN, spacing_mm=(1.0, 1.0, 1.0)), "--architecture unet3d, got unet"),
        (replace(VOLUMES, classes=True), "--classes: got unet3d, wanted"),
        (replace(PLAIN, task="empty-slices", classes=True), "--classes: got empty-slices, wanted"),
        (replace(VOLUMES, patch=(8, 32, 32)), "--patch 8,32,32: wanted multiples of 16"),
        (replace(VOLUMES, patch=(16, 32, 48)), "--patch 16,32,48: .* as many rows as columns"),
        (replace(VOLUMES, patch=(512, 160, 160)), "13107200 voxels, wanted 4194304 at most"),
        (replace(VOLUMES, size=96), "--patch 80,160,160: slices have 96 rows"),
        (replace(VOLUMES, spacing_mm=(0.1, 1.0, 1.0)), r"--spacing 0.1,1.0,1.0: wanted 0.3 to 20.0 mm"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_got_and_wanted(settings, words):
    with pytest.raises(UsageError, match=words):
        check_inputs(settings)


@pytest.mark.parametrize("text", ["80", "80,160", "a,b,c", "80,160,-1", "0,1,1", "nan,1,1", ""])
def test_three_numbers_or_nothing(text):
    with pytest.raises(UsageError, match="--spacing: got .* wanted three numbers"):
        parse_three("--spacing", text)
    with pytest.raises(UsageError, match="wanted whole numbers"):
        parse_patch("80,160.5,160.5")
    assert (parse_three("--spacing", None), parse_patch("80,160,160")) == ((), (80, 160, 160))


def test_what_was_always_trained_is_built_with_the_arguments_it_always_had():
    """Cards of before name no channels, outputs or slices; nor do those of after that have none."""
    check_inputs(PLAIN)
    assert arguments_for(PLAIN, 256) == {"size": 256}
    assert input_of(PLAIN, 256) == (256, 256, 1)
    assert card_fields(PLAIN) == {"channels": 1, "neighbours_mm": [], "patch": [], "classes": [], "spacing_mm": None}


def test_volumes_have_the_published_patch_unless_another_is_asked_for():
    check_inputs(VOLUMES)
    assert arguments_for(VOLUMES, 256) == {"size": 160, "slices": 80}
    assert input_of(replace(VOLUMES, patch=(16, 32, 32)), 256) == (16, 32, 32, 1)


def test_settings_of_before_are_read_with_what_they_meant():
    from dataclasses import asdict

    stored = asdict(PLAIN)
    for name in ("neighbours", "neighbours_mm", "patch", "spacing_mm", "classes"):
        del stored[name]
    assert with_defaults(stored) == asdict(PLAIN)


def test_the_command_line_refuses_before_it_reads(tmp_path):
    pytest.importorskip("keras")
    from typer.testing import CliRunner

    from covct import cli

    asked = ["train", "infection", str(tmp_path), "-o", str(tmp_path / "out"), "--neighbours", "1"]
    result = CliRunner().invoke(cli.app, [*asked, "--architecture", "unet3d"])
    assert isinstance(result.exception, UsageError)
    assert "--neighbours 1" in str(result.exception)
