"""How far a command is: a bar on a terminal, lines elsewhere, nothing for programs; results go their own way."""

import io

from rich.console import Console

from covct.commands import bars


def console_of(monkeypatch, terminal):
    shown = io.StringIO()
    monkeypatch.setattr(bars, "stderr", Console(file=shown, force_terminal=terminal, width=120))
    return shown


def test_results_on_standard_output_are_not_the_bar_s(monkeypatch, capsys):
    shown = console_of(monkeypatch, True)
    with bars.progress("reading") as bar:
        bar.say("evaluating")
        bar.at(3, 12, "three of them")
        print('{"event": "judged"}')
        bar.print("[b]a line that stays[/]")
    assert capsys.readouterr().out == '{"event": "judged"}\n'
    assert "judged" not in shown.getvalue()
    for words in ("evaluating", "3/12", "three of them", "a line that stays"):
        assert words in shown.getvalue()


def test_without_a_terminal_what_begins_is_a_line_and_one_now_and_then(monkeypatch):
    shown = console_of(monkeypatch, False)
    with bars.progress("loading TensorFlow") as bar:
        bar.say("reading DATA")
        bar.say("reading DATA")
        bar.at(1, 9)
        bar.last_s -= bars.QUIET_S
        bar.at(2, 9, "of [volume]")
        bar.at(3, 9)
    assert shown.getvalue().splitlines() == ["loading TensorFlow", "reading DATA", "reading DATA: 2 of 9, of [volume]"]


def test_where_a_program_reads_nothing_is_shown(monkeypatch):
    shown = console_of(monkeypatch, True)
    with bars.progress("reading", quiet=True) as bar:
        bar.say("evaluating")
        bar.at(1, 2)
    assert shown.getvalue() == ""
