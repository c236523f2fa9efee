"""Nothing grows past a screen unnoticed: modules of 400 lines, functions of 40, few and named exceptions."""

import ast
from pathlib import Path

import pytest

import covct

PACKAGE = Path(covct.__file__).parent
LONGEST_MODULE = 400
# Lines from the first statement after the docstring to the last: a signature may have a line an option.
LONGEST_BODY = 40
# Why each may be longer stands at its head.
LONG_MODULES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()

MODULES = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def long_bodies(source):
    """Names of the functions whose bodies are too long, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body if ast.get_docstring(node) is None else node.body[1:]
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if lines > LONGEST_BODY:
                yield node.name, lines


def test_modules_are_short():
    long = {name for name, text in MODULES.items() if text.count("\n") > LONGEST_MODULE}
    assert long == LONG_MODULES


def test_functions_fit_a_screen():
    long = {f"{name}:{function}" for name, text in MODULES.items() for function, _ in long_bodies(text)}
    assert long == LONG_FUNCTIONS


@pytest.mark.parametrize(("lines", "found"), [(40, []), (41, [("f", 41)])])
def test_a_body_is_counted_without_signature_and_docstring(lines, found):
    source = "def f(\n    a,\n):\n    '''Long\n\n    text.\n    '''\n" + "    a = 1\n" * lines
    assert list(long_bodies(source)) == found
