"""`covct train`: one network, or with --like all those of a published system."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from covct.commands.configured import Configured
from covct.commands.systems import System, Training, published, read_system
from covct.commands.train_options import Asked, takes
from covct.commands.training import card_of, check, compute_on_one_thread, run, settings_of
from covct.errors import UsageError
from covct.unattended.logs import LogFormat

if TYPE_CHECKING:
    from covct.training.samples.reading import Readings

LIKE = "covct.train.like"
FOUND = "{task}-find-lr.json"


@takes(Asked)
def train_command(asked: Asked) -> None:
    """Train the restorer, lung, infection or empty-slice network; whole patients are held out."""
    run(asked)


@dataclass(frozen=True)
class Wish:
    """One training of a system: its place in words, what is asked for, and whether its rate is searched for first."""

    where: str
    asked: Asked
    find_lr: bool


class Train(Configured):
    """`covct train`, and `covct train --like NAME [TASK] DATA`: the same options, which go before the recipe's."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's own parameters, and the two of systems."""
        *own, asks_for_help = super().get_params(ctx)
        return [*own, *_like_options(), asks_for_help]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Of a system the trainings, each as if it had been asked for by itself."""
        if ctx.resilient_parsing or set(ctx.help_option_names) & set(args):
            return super().parse_args(ctx, args)
        given, rest, _ = self.make_parser(ctx).parse_args(list(args))
        name, printed = (_given(given, option) for option in ("like", "print_recipe"))
        if not name:
            if printed:
                raise UsageError("--print shows the recipe of a system: it goes with --like")
            return super().parse_args(ctx, args)
        system = read_system(name, self)
        if printed:
            ctx.meta[LIKE] = system
        else:
            ctx.meta[LIKE] = list(self._wishes(ctx, system, given, rest))
        return []

    def invoke(self, ctx: Any) -> Any:
        """Train, or show a recipe."""
        asked = ctx.meta.get(LIKE)
        if asked is None:
            return super().invoke(ctx)
        if isinstance(asked, System):
            typer.echo(asked.config.text, nl=False)
        else:
            train_all(asked)
        return None

    def _wishes(self, ctx: Any, system: System, given: dict[str, Any], rest: list[str]) -> Iterator[Wish]:
        """Each training of a system as it is asked for: command line before environment before recipe."""
        task, data = _arguments(given, rest)
        if not (out := _given(given, "out")):
            raise UsageError(f"--like {system.name}: no output folder; wanted --out OUT")
        chosen = [one for one in system.trainings if task in (None, one.task)]
        if not chosen:
            raise UsageError(f"--like {system.name}: it has no training of {task}")
        for one in chosen:
            yield self._wish(ctx, system, one, given, [one.task, *data, "--out", str(Path(out) / one.folder)])

    def _wish(self, ctx: Any, system: System, one: Training, given: dict[str, Any], words: list[str]) -> Wish:
        alone = typer.Context(self, info_name=self.name, parent=ctx.parent, **self.context_settings)
        alone.default_map = system.config.of_options(self, one.options)
        beside = [word for name, value in given.items() for word in self._words(alone, name, value)]
        super().parse_args(alone, [*words, "--resume", *beside])
        source = alone.get_parameter_source("learning_rate")
        rate_given = source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")
        asked = Asked(**alone.params)
        where = f"--like {system.name}, {one.folder}/{one.task}"
        return Wish(where, replace(asked, find_lr=False), asked.find_lr and not rate_given)

    def _words(self, ctx: Any, name: str, value: Any) -> list[str]:
        """An option as it was given on the command line, for another one."""
        option = next(one for one in self.get_params(ctx) if one.name == name)
        if name in ("like", "print_recipe", "out") or not option.opts[0].startswith("-") or value is None:
            return []
        if option.is_flag:
            return [option.opts[0]] if value is True else []
        return [option.opts[0], value] if isinstance(value, str) else []


def train_all(wishes: list[Wish]) -> None:
    """One training after another; what the data lack for any of them is said before the first begins.

    Raises
    ------
    UsageError
        Of a training, naming it.
    """
    from covct.commands.quiet import quiet_tensorflow

    for wish in wishes:
        check(wish.asked)
    if any(wish.asked.exact for wish in wishes):
        compute_on_one_thread()
    with quiet_tensorflow():
        from covct.training.samples.reading import Readings
    readings = Readings()
    for wish in wishes:
        _naming(wish, partial(_look, wish.asked, readings))
    for wish in wishes:
        _naming(wish, partial(_train, wish, readings))


def _naming(wish: Wish, act: Callable[[], None]) -> None:
    try:
        act()
    except UsageError as error:
        raise UsageError(f"{wish.where}: {error}") from error


def _look(asked: Asked, readings: Readings) -> None:
    """Plan a training without beginning it: UsageError where the data lack what it learns from."""
    from covct.training.build import check as check_settings
    from covct.training.samples.plans import PLANS

    settings = settings_of(asked)
    check_settings(settings)
    restorer = card_of(asked.restorer, settings.fold)
    if restorer and not restorer.exists():  # one that the system trains itself
        return
    PLANS[settings.task](readings.of(asked.data, restorer), settings)


def _train(wish: Wish, readings: Readings) -> None:
    """A training with what belongs before it: a sheet of its samples, the search for its rate. None is made twice."""
    asked = wish.asked
    text = f"{wish.where}: begins"
    typer.echo(json.dumps({"event": "note", "text": text}) if asked.log_format == LogFormat.json else text, err=True)
    if asked.show_augmented and not list(asked.out.glob(f"{asked.task.value}-augmented*")):
        run(asked)
    if wish.find_lr:
        found = asked.out / FOUND.format(task=asked.task.value)
        if not found.exists():
            run(replace(asked, show_augmented=0, find_lr=True))
        asked = replace(asked, learning_rate=json.loads(found.read_text())["suggestion"])
    run(replace(asked, show_augmented=0), readings)


def _given(given: dict[str, Any], name: str) -> Any:
    """What stands on the command line, None where nothing does."""
    value = given.get(name)
    return value if isinstance(value, str | bool | list) else None


def _arguments(given: dict[str, Any], rest: list[str]) -> tuple[str | None, list[str]]:
    """The task, if one stands before the data, and the data, if they are said."""
    words = [value for name in ("task", "data") if (value := _given(given, name))] + rest
    return (words[0], words[1:]) if len(words) > 1 else (None, words)


@cache
def _like_options() -> list[Any]:
    """`--like` and `--print`, as typer makes options."""

    def command(
        like: Annotated[
            str | None,
            typer.Option(
                "--like",
                help=f"Train a published system: {', '.join(published())}, or a recipe FILE.toml. TASK may be left "
                "out; options beside it go before the recipe's.",
                rich_help_panel="Systems", allow_from_autoenv=False, expose_value=False, show_default=False,
            ),
        ] = None,
        print_recipe: Annotated[
            bool,
            typer.Option(
                "--print", help="Show the recipe of --like, and train nothing.",
                rich_help_panel="Systems", allow_from_autoenv=False, expose_value=False,
            ),
        ] = False,
    ) -> None: ...  # fmt: skip

    app = typer.Typer(add_completion=False)
    app.command()(command)
    return [param for param in typer.main.get_command(app).params if param.name in ("like", "print_recipe")]


COMMAND = Train
