"""The manual tells the truth: tables, options and examples are compared with the program, and the pages are built."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from enum import Enum
from pathlib import Path

import pytest
import typer

import covct
from covct import cli, errors, terms
from covct.commands.config_file import annotation
from covct.commands.exit_codes import EXIT_CODES
from covct.commands.figure_rows import STATEMENT, with_codes, with_rows
from covct.commands.schemas import schema_path
from covct.evaluation.evaluate_event import EvaluateEvent
from covct.exchange.pull_event import PullEvent
from covct.intake import gate_rules
from covct.results.summary import write_summary
from covct.training.train_event import TrainEvent
from covct.unattended import logs
from covct.unattended.convert_event import ConvertEvent
from support.thresholds import make_networks, make_weights

ROOT = Path(covct.__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
COMMANDS = typer.main.get_command(cli.app).every()  # type: ignore[attr-defined]
CODE = {path: path.read_text() for path in (ROOT / "covct").rglob("*.py")}
VARIABLES = {  # those that options may come from
    f"COVCT_{name}_{one.name}".upper()
    for name, command in COMMANDS.items()
    for one in command.params
    if one.opts[0].startswith("-")
}
TEXTS = [ROOT / "README.md", *PAGES, *ROOT.glob("examples/*/README.md"), ROOT / "docker/README.md"]
INCLUDED = [ROOT / name for name in ("CONTRIBUTING.md", "DESIGN.md", "benchmarks/RESULTS.md", "weights/README.md")]
INCLUDED.append(ROOT / "covct/dicom/CONFORMANCE.md")


def page(name):
    return (DOCS / f"{name}.md").read_text()


def section(name, heading):
    """The text below a heading, up to the next one."""
    return re.split(r"^#+ ", page(name).split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def rows(text, head):
    """Cells of every table with this head, row by row."""
    found = []
    for table in text.split(f"\n| {head} |\n")[1:]:
        lines = table.split("\n\n")[0].splitlines()[1:]
        found += [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines]
    assert found, f"no table | {head} |"
    return found


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


# Options


def parameters(command):
    """Options of a command by their long names, but for --help."""
    options = [one for one in COMMANDS[command].params if one.opts[0].startswith("--")]
    return {one.opts[0]: one for one in options if one.opts[0] != "--help"}


def choices(command, option):
    """What an option takes, where that is one of several words."""
    kind = annotation(COMMANDS[command], option)
    return [choice.value for choice in kind] if isinstance(kind, type) and issubclass(kind, Enum) else []


def check_options(table, command, options):
    stated = {names(cells[0])[0]: cells for cells in table}
    assert set(stated) == set(options)
    for name, (first, default, about) in stated.items():
        option = options[name]
        assert [f"`{one}`" for one in option.opts if one.startswith("-")] == first.split(", "), name
        assert (default == "required") == bool(option.required), name
        wanted = option.default() if callable(option.default) else option.default
        if not option.required and wanted not in (None, False, "", ()) and not option.is_flag:
            wanted = f"{wanted:g}" if isinstance(wanted, float | int) else str(getattr(wanted, "value", wanted))
            assert names(default)[:1] == [wanted], f"{name}: the default is {wanted}"
        for choice in choices(command, option):
            assert f"`{choice}`" in default + about, f"{name} takes {choice}"


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("nightly", "scan"),
        ("listen", "listen"),
        ("platforms", "platform"),
        ("convert", "convert"),
        ("pull", "pull"),
        ("send", "send"),
        ("view", "view"),
        ("restore", "restore"),
        ("evaluate", "evaluate"),
        ("train-options", "train"),
    ],
)
def test_every_option_with_its_default(name, command):
    check_options(rows(page(name), "option | default | meaning"), command, parameters(command))


def test_every_option_of_the_export_to_fhir():
    [options] = [one.params for name, one in COMMANDS["export"].commands.items() if name == "fhir"]
    table = rows(page("fhir"), "option | default | meaning")
    assert {names(cells[0])[0] for cells in table} == {one.opts[0] for one in options if one.opts[0].startswith("--")}


def test_options_of_watch_are_its_own_and_those_of_scan():
    own, shared = parameters("watch"), parameters("scan")
    table = rows(page("watch"), "option | default | meaning")
    check_options(table, "watch", {name: own[name] for name in own if name not in shared})
    [excluded] = re.findall(r"options-of-covct-scan\) apply except ([^.]+)\.", page("watch"))
    assert set(names(excluded)) == set(shared) - set(own)


def test_options_of_node_are_its_own_and_those_of_listen():
    own, shared = parameters("node"), parameters("listen")
    table = rows(page("node"), "option | default | meaning")
    check_options(table, "node", {name: own[name] for name in own if name not in shared})
    [excluded] = re.findall(r"options-of-covct-listen\) apply except ([^.]+)\.", page("node"))
    assert set(names(excluded)) == set(shared) - set(own)


def test_every_command():
    assert {names(cells[0])[0].split()[1] for cells in rows(page("commands"), "command | what it does | read")} == set(
        COMMANDS
    )


def command_lines(text):
    """Calls of covct in the examples of a page, as lists of words."""
    for language, block in re.findall(r"```(.*?)\n(.*?)```", text, re.S):
        for line in [] if language not in ("", "sh") else block.replace("\\\n", " ").splitlines():
            said = re.sub(r"\s# .*", "", line.strip())
            for call in re.findall(r"(?:^|[ ;&|(])covct (?!covct |env )([a-z]+ .*)", said):
                words = shlex.split(call.replace("...", ""))
                yield words[: next((i for i, word in enumerate(words) if word in {"&&", "|", ">", "<"}), None)]


@pytest.mark.parametrize("text", [*TEXTS, *INCLUDED], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_example_is_understood(text):
    """Its command is one, and takes its options."""
    for words in command_lines(text.read_text()):
        assert words[0] in COMMANDS, words
        if words[0] == "config":  # behind it stands the command line of another command
            words = words[next((i for i, word in enumerate(words[1:], 1) if word in COMMANDS), 0) :]
        command = COMMANDS[words[0]]
        command = getattr(command, "commands", {}).get(" ".join(words[1:2]), command)
        known = {name for one in command.get_params(typer.Context(command)) for name in one.opts}
        for word in words[1:]:
            assert not word.startswith("-") or word.split("=")[0] in known, (words[0], word)


def test_examples_are_found_at_all():
    assert sum(len(list(command_lines(text.read_text()))) for text in TEXTS) > 50


# Tables


def test_every_exit_code():
    listed = {int(code): meaning for code, meaning in rows(page("exit-codes"), "code | meaning")}
    assert set(listed) == {int(code) for code in re.findall(r"(\d+) ", EXIT_CODES)}
    assert {one.exit_code for one in errors.RunError.__subclasses__()} <= set(listed)


def test_every_line_of_the_gate_with_its_numbers():
    table = rows(page("gate"), "slug | about | refused | warned | why this limit")
    wanted = [
        [f"`{slug}`", rule.about, rule.refused or "–", rule.warned or "–", rule.why]
        for slug, rule in gate_rules.GATE.items()
    ]
    assert table == wanted
    code = "".join(CODE.values())
    assert set(re.findall(r'(?:SeriesError|Finding|refusal)\(\s*"([a-z0-9-]+)"', code)) <= set(gate_rules.GATE)
    for slug in gate_rules.GATE:
        assert code.count(f'"{slug}"') > 1, f"nothing ever says {slug}"


def test_what_helps_is_about_reasons_that_there_are():
    helped = [name for cells in rows(page("gate"), "reason | what helps") for name in names(cells[0])]
    assert helped and set(helped) <= set(gate_rules.GATE)


def test_reasons_of_failures_are_said_somewhere():
    code = "".join(CODE.values())
    for cells in rows(section("exit-codes", "Why a series failed"), "reason | meaning"):
        assert f'"{names(cells[0])[0]}"' in code


def test_the_numbers_of_the_gate_beside_what_was_measured():
    """And no scan that was measured lies outside them."""
    table = rows(page("gate-ranges"), "measured | ten chests | withheld | refused")
    ranges = [
        (gate_rules.IN_PLANE_MM_WARNED, gate_rules.IN_PLANE_MM_REFUSED),
        (gate_rules.BODY_MM_WARNED, gate_rules.BODY_MM_REFUSED),
        (gate_rules.BODY_CM2_WARNED, gate_rules.BODY_CM2_REFUSED),
        ((None, gate_rules.MOST_LUNG_ML), (None, gate_rules.LUNGS_REFUSED * gate_rules.MOST_LUNG_ML)),
        ((gate_rules.ONE_LUNG, None), None),
        (gate_rules.SHAPE_WARNED, gate_rules.SHAPE_REFUSED),
        ((gate_rules.LEAST_LUNG_SHARE, None), None),
        ((None, gate_rules.CLEFT), None),
        ((gate_rules.SPINE_WARNED, None), (gate_rules.SPINE_REFUSED, None)),
        (None, (gate_rules.GAS_HU, None)),
    ]
    assert len(table) == len(ranges)
    for (_, measured, withheld, refused), (warned, bounds) in zip(table, ranges, strict=True):
        low, high = (float(value) for value in measured.split(" to "))
        for cell, bound in ((withheld, warned), (refused, bounds)):
            if bound is None:
                continue
            numbers = [f"{value:g}" for value in bound if value is not None]
            assert all(number in cell for number in numbers), cell
            assert (bound[0] is None or bound[0] < low) and (bound[1] is None or high < bound[1])


def test_every_defect():
    from covct.results.defects import DEFECTS

    assert {cells[0].strip("`"): cells[1] for cells in rows(page("verify"), "defect | what is wrong")} == DEFECTS
    assert set(re.findall(r'(?:Defect|Damage)\(\s*"([a-z0-9-]+)"', "".join(CODE.values()))) == set(DEFECTS)


def test_every_metric():
    from covct.unattended.prometheus import METRICS

    table = rows(page("logs-and-metrics"), "metric | type | meaning")
    assert [[cell.strip("`") for cell in cells] for cells in table] == [
        [name, kind, about] for name, (kind, about) in METRICS.items()
    ]
    alerts = "".join(cells[0] for cells in rows(page("logs-and-metrics"), "alert on | it means"))
    asked = set(re.findall(r"covct_[a-z_]+", alerts))
    assert asked and asked <= set(METRICS)


def test_every_event_of_a_night():
    listed = {name for cells in rows(page("logs-and-metrics"), "event | when") for name in names(cells[0])}
    night = [path for path in CODE if path.parent.name == "unattended" and path.name != "convert.py"]
    night.append(ROOT / "covct/commands/scan.py")
    emitted = {name for path in night for name in re.findall(r'"event": "([a-z-]+)"', CODE[path])}
    assert emitted - logs.QUIET - {"plan"} <= listed
    assert {name for name in listed if f'"{name}"' not in "".join(CODE.values())} == set()


@pytest.mark.parametrize("event", [ConvertEvent, EvaluateEvent, PullEvent, TrainEvent])
def test_every_event_of_the_other_commands(event):
    text, command = page("logs-and-metrics"), event.TITLE.split()[1]
    listed = [name for cells in rows(text, f"event of `{command}` | when") for name in names(cells[0])]
    assert sorted(listed) == sorted(event.json_schema()["discriminator"]["mapping"])
    [schema] = [cells[2] for cells in rows(text, "command | where | JSON Schema") if command in cells[0]]
    assert ROOT / names(schema)[0] == schema_path(event)


def test_the_shell_line_that_finds_the_series_of_a_hash(tmp_path):
    """It is run here."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    [line] = [one for one in page("logs-and-metrics").splitlines() if one.startswith('printf %s "$UID_OF_SERIES"')]
    key = logs.identifier_key(tmp_path / "OUT" / ".covct")
    found = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "UID_OF_SERIES": "1.2.3"},
    )  # fmt: skip
    assert found.stdout.strip() == logs.hashed("1.2.3", key)


# Outputs


def properties(schema):
    """Names of every property of a JSON Schema, at any depth."""
    if isinstance(schema, list):
        return set().union(*map(properties, schema))
    if not isinstance(schema, dict):
        return set()
    own = schema.get("properties", {})
    own = set(own) if isinstance(own, dict) else set()
    return own.union(*map(properties, schema.values()))


@pytest.mark.parametrize(
    ("heading", "schema"),
    [("report.json", "covct/pipeline/report.schema.json"), ("runs/*.json", "covct/unattended/run.schema.json")],
)
def test_every_field(heading, schema):
    wanted = properties(json.loads((ROOT / schema).read_text())) - {"status", "series"}
    table = rows(section("report", heading), "field | meaning")
    listed = {part for cells in table for name in names(cells[0]) for part in name.split(".")} - {"*"}
    explained = {name for cells in table for name in names(cells[1])}
    assert sorted(listed - wanted) == [], "there is no such field"
    assert sorted(wanted - listed - explained) == [], "fields without a row"


def test_every_column_of_the_table(tmp_path):
    write_summary(tmp_path)
    table = rows(section("report", "summary.csv"), "column | meaning")
    columns = (tmp_path / "summary.csv").read_text().strip().split(",")
    assert [name for cells in table for name in names(cells[0])] == columns


def test_rows_of_figures_are_those_of_the_table():
    """After a change: `make schemas`."""
    assert with_rows(page("report")) == page("report")
    assert with_codes(STATEMENT.read_text()) == STATEMENT.read_text()


@pytest.mark.slow
def test_every_file_of_a_result(phantom_series, tmp_path):
    """A scan with every format writes the files that the page shows, and no others."""
    from covct.outputs import FORMATS, Outputs
    from covct.unattended import batch

    weights = make_weights(tmp_path / "weights")
    order = batch.Order((phantom_series,), tmp_path / "out", weights, Outputs(tuple(FORMATS)), lobes="atlas")
    assert batch.scan(order, make_networks, lambda event: None)["done"] == 1
    tree = page("outputs").split("```")[1]
    for path in (tmp_path / "out").glob("*/*/*"):
        name = "capture-0001.sc.dcm" if path.name.startswith("capture-") else path.name
        assert re.search(rf"(^| ){re.escape(name)} ", tree, re.M), f"{name} is not in the tree"
    shown = set(re.findall(r"[a-z0-9-]+(?:\.[a-z]+)+(?= )", tree))
    made = {path.name for path in (tmp_path / "out").rglob("*")}
    assert shown <= made
    assert [names(cells[0])[0] for cells in rows(page("outputs"), "`--formats` | files | what it is for")] == list(
        FORMATS
    )


def test_severity_classes_and_hu_bands():
    table = rows(page("outputs").replace("\n  |", "\n|"), "class | infected")
    assert table == [[str(number), words] for number, _, words in terms.SEVERITY]
    for low, high in terms.HU_BANDS.values():
        assert f"{low} to {high} HU".replace("-", "−") in page("outputs")


# Networks


def test_every_network():
    from covct.architectures import ARCHITECTURES

    assert [names(cells[0])[0] for cells in rows(page("train"), "network | what it is")] == list(ARCHITECTURES)


def test_every_choice_of_a_training():
    from covct.training.losses import LOSSES
    from covct.training.samples.presets import PRESETS
    from covct.training.schedules import SCHEDULES
    from covct.voxels.fields_of_view import FIELDS_OF_VIEW
    from covct.voxels.preprocess import RECIPES

    def first(head):
        return {names(cells[0])[0].split(":")[0] for cells in rows(page("train"), head)}

    assert first("`--recipe` | the slice becomes") == set(RECIPES)
    assert first("`--augment` | changes on the fly") == set(PRESETS)
    assert first("`--field-of-view` | the network sees") == set(FIELDS_OF_VIEW) - {"whole"}
    assert first("`--loss` | what is minimised") == set(LOSSES)
    assert first("`--schedule` | the learning rate") == set(SCHEDULES)


# README


def test_readme_is_short_and_says_what_it_is_not():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert covct.RESEARCH_USE in text
    assert text.count("```sh\n") == 2


def test_scores_of_the_readme_are_those_of_the_weights():
    readme, scores = (ROOT / "README.md").read_text(), (ROOT / "weights/README.md").read_text()
    [(lungs, infection)] = re.findall(
        r"four patients pooled\*\* \| 239 \| \*\*([\d.]+)\*\* .*? \*\*([\d.]+)\*\*", scores
    )
    [others] = re.findall(r"ten people pooled\*\* \| 27 \| +\| +\| \*\*([\d.]+)\*\*", scores)
    healthy = re.findall(r"LCTSC case-00\d \(held out\) \| ([\d.]+)", scores)
    assert [cells[1:] for cells in rows(readme, "Dice | lungs | infection")] == [
        [lungs, infection],
        ["", others],
        [", ".join(healthy), ""],
    ]


def test_speed_and_memory_of_the_readme_are_those_that_were_measured():
    readme, measured = (ROOT / "README.md").read_text(), (ROOT / "benchmarks/RESULTS.md").read_text()
    speed = {cells[0]: cells[1:] for cells in rows(readme, "series | time | memory")}
    [resident] = re.findall(r"\| resident, one series \| ([\d.]+) s", measured)
    [(small, seconds, large)] = re.findall(r"\| whole process \| [\d.]+ \| (\d+) \| ([\d.]+) \| (\d+) \|", measured)
    for size, took, mib in (("300 slices of 512 x 512", resident, small), ("1500 slices of 768 x 768", seconds, large)):
        assert speed[size] == [f"{float(took) / 60:.1f} minutes", f"{int(mib) / 1024:.1f} GiB"]


# Pages


@pytest.mark.parametrize("text", [*TEXTS, *INCLUDED], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(text):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text.read_text()):
        assert target.startswith("https://") or (text.parent / target).exists(), target


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_settings_and_targets_that_are_named_exist(text):
    beside = [
        ROOT / "Makefile",
        *ROOT.glob("examples/*/*.sh"),
        *ROOT.glob("docker/*.yaml"),
        *ROOT.glob("examples/*/*.yaml"),
        *ROOT.glob("tests/*.py"),
    ]
    code = "".join([*CODE.values(), *(path.read_text() for path in beside)])
    for variable in set(re.findall(r"COVCT_[A-Z_]+", text.read_text())):
        assert variable in code or variable in VARIABLES, variable
    for target in set(re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", text.read_text(), re.M)):
        assert re.search(rf"^{''.join(target)}:", code, re.M), target


def test_files_of_the_walk_exist():
    """Those that are named below covct/ in the order in which a scan comes by."""
    walk = section("architecture", "One scan, file by file")
    files = [name for name in names(walk) if name.endswith(".py")]
    assert len(files) > 20 and [name for name in files if not (ROOT / "covct" / name).exists()] == []


def test_pages_are_short():
    assert {
        path.name: len(path.read_text().splitlines()) for path in PAGES if len(path.read_text().splitlines()) > 250
    } == {}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    made = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html", "-d", folder / "doctrees",
         DOCS, folder / "html"],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert (made.returncode, made.stderr) == (0, "")
    return folder / "html"


@pytest.mark.slow
def test_pages_are_built_without_a_warning_and_link_to_one_another(built):
    assert {path.stem for path in PAGES} <= {path.stem for path in built.glob("*.html")}
    assert 'href="conformance.html"' in (built / "architecture.html").read_text()


@pytest.mark.slow
def test_nothing_that_a_page_needs_is_elsewhere(built):
    """Scripts, styles, fonts and pictures lie in the folder: the manual is read without a network."""
    for path in built.rglob("*.html"):
        text = path.read_text()
        assert re.findall(r'<(?:script|img|iframe|source)[^>]+src="(?:https?:)?//[^"]*"', text) == [], path.name
        assert re.findall(r'<link[^>]+href="(?:https?:)?//[^"]*"', text) == [], path.name
    for path in built.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", path.read_text()) == [], path.name
