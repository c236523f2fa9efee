"""Documents that lie on disk, as typed models: validated when they are read, with the JSON Schema of what is published.

A document is a frozen model. It is written whole, so its own class knows every field (`exact`). It is read leniently:
fields that a later version added are passed over, and a field with a default may be absent, as in documents of earlier
versions. What each version means, and which are read, stands in `versions`.
"""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import GenerateJsonSchema

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # it looks for some in every package that is installed
OURS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,79}")  # what a message may repeat: a word of ours, never a free text
WANTED = {
    "string_type": "a text", "int_type": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "finite_number": "a finite number", "bool_type": "true or false", "none_required": "null",
    "list_type": "a list", "tuple_type": "a list", "dict_type": "an object", "model_type": "an object",
}  # fmt: skip
WANTED_BY = {  # the word of pydantic's context: how a sentence says it
    "expected": "wanted {}", "pattern": "wanted a text like {}", "ge": "wanted at least {}", "gt": "wanted above {}",
    "le": "wanted at most {}", "lt": "wanted below {}", "min_length": "wanted at least {} long",
    "max_length": "wanted at most {} long",
}  # fmt: skip


def _moment(text: str) -> str:
    try:
        told = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("wanted a date and a time") from None
    if told.tzinfo is None:
        raise ValueError("wanted a date and a time with its offset from UTC")
    return text


Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Moment = Annotated[str, AfterValidator(_moment)]  # ISO 8601, as `datetime.isoformat` writes it


class DamagedDocument(ValueError):
    """A document that cannot be what it should be. Its text is one sentence: the file, the field, got and wanted.

    Attributes
    ----------
    name : str
        The file, as its reader calls it.
    told : str
        The sentence without the file.
    faults : tuple of str
        Each field at fault and what is wrong with it, the first ones first. They hold no free text of the document.
    """

    def __init__(self, name: str, faults: tuple[str, ...]):
        self.name, self.faults = name, faults
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 2 else " (and 1 more fault)" * (len(faults) - 1)
        self.told = f"{faults[0]}{more}"
        super().__init__(f"{name}: {self.told}")


class Schema(GenerateJsonSchema):
    """JSON Schema, draft 2020-12, without a title for each field: its name says that."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        """``["number", "null"]`` rather than a choice of two schemas, where one will do."""
        inner = self.generate_inner(schema["schema"])
        if "enum" in inner:
            return {"enum": [*inner["enum"], None]}
        if isinstance(inner.get("type"), str) and "const" not in inner:
            return {**inner, "type": [inner["type"], "null"]}
        return {"anyOf": [inner, {"type": "null"}]}


class Document(BaseModel):
    """What all documents share, and the objects in them: no field changes, no type is guessed, NaN is no number.

    A field whose name in JSON is none in Python has it as `alias`. A validator raises ``ValueError("wanted ...")``.
    """

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, defer_build=True, serialize_by_alias=True,
        validate_by_name=True, validate_by_alias=True, protected_namespaces=(),
    )  # fmt: skip
    PUBLISHED_AS: ClassVar[str] = ""  # documents with a published schema: "covct-NAME-VERSION"
    TITLE: ClassVar[str] = ""

    @classmethod
    def read(cls, path: Path, *, exact: bool = False) -> Self:
        """The document in a file; see `parse`. An OSError is the caller's."""
        return cls.parse(path.read_bytes(), path.name, exact=exact)

    @classmethod
    def parse(cls, content: bytes | str, name: str, *, exact: bool = False) -> Self:
        """The document in a JSON text.

        Parameters
        ----------
        name : str
            What a message calls the file.
        exact : bool
            Refuse fields that are not known, rather than pass over them.

        Raises
        ------
        DamagedDocument
            It is not JSON, or a field is missing, of the wrong type or out of its range.
        """
        try:
            return cls.model_validate_json(content, extra="forbid" if exact else "ignore")
        except ValidationError as error:
            raise DamagedDocument(name, faults(error)) from None  # its text would quote what it stumbled over

    @classmethod
    def checked(cls, value: Any) -> Self:
        """The document in a value that was parsed already, as part of another one. Raises DamagedDocument."""
        try:
            return cls.model_validate(value, extra="ignore")
        except ValidationError as error:
            raise DamagedDocument("", faults(error)) from None

    def replaced(self, **changes: Any) -> Self:
        """The same with other values in some fields, validated."""
        return type(self).model_validate({**dict(self), **changes})

    def as_json(self, indent: int | None = 2) -> str:
        """As it is written: the fields in their order, and a line end."""
        return json.dumps(self.model_dump(), indent=indent, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema (draft 2020-12) of the document, as it is published in the package."""
        return json_schema(cls)


class Published(Protocol):
    """A model whose schema is published: a Document, or a choice of several."""

    PUBLISHED_AS: ClassVar[str]
    TITLE: ClassVar[str]

    @classmethod
    def model_json_schema(cls, *, schema_generator: type[GenerateJsonSchema]) -> dict[str, Any]: ...


def json_schema(model: type[Published]) -> dict[str, Any]:
    """The JSON Schema of a model, with its head, and each description on one line."""
    made = model.model_json_schema(schema_generator=Schema)
    head = {"$schema": Schema.schema_dialect, "$id": f"urn:covct:{model.PUBLISHED_AS}", "title": model.TITLE}
    defs = made.pop("$defs", {})
    for one in (made, *defs.values()):
        if "description" in one:
            one["description"] = " ".join(one["description"].split())
    description = made.pop("description")
    return {**head, "description": description, **{k: v for k, v in made.items() if k != "title"}, "$defs": defs}


def faults(error: ValidationError) -> tuple[str, ...]:
    """What is wrong with a document, one clause a field: its place, what was got, what was wanted."""
    return tuple(map(_fault, error.errors(include_url=False)))


def _fault(one: Any) -> str:
    kind, place, context = one["type"], _place(one["loc"]), one.get("ctx", {})
    if kind == "json_invalid":
        return f"it is not JSON: {context['error']}"
    if kind == "missing":
        return f"{place} is missing"
    if kind == "extra_forbidden":
        return f"{place} is not known"
    if isinstance(context.get("error"), DamagedDocument):  # of a part that is a document itself
        return f"{place}.{context['error'].told}"
    return f"{place} is {_got(one['input'])}, {_wanted(kind, context) or _uncapital(one['msg'])}"


def _wanted(kind: str, context: dict[str, Any]) -> str:
    if kind == "value_error":
        return str(context["error"])
    if kind in WANTED:
        return f"wanted {WANTED[kind]}"
    return next((text.format(context[word]) for word, text in WANTED_BY.items() if word in context), "")


def _uncapital(message: str) -> str:
    return message[:1].lower() + message[1:]


def _place(location: tuple[str | int, ...]) -> str:
    """Where in the document: ``regions.lungs.thirds``, ``largest[2].side``."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{_word(part)}" for part in location if part != "[key]"]
    return "".join(parts).removeprefix(".") or "it"


def _word(text: str) -> str:
    return text if OURS.fullmatch(text) else "(a name)"


def _got(value: Any) -> str:
    """A value as a message may show it: numbers and words of ours, of everything else only what it is."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)[:40]
    if isinstance(value, str):
        return f'"{value}"' if OURS.fullmatch(value) else "a text" if value else "empty"
    return "a list" if isinstance(value, list | tuple) else "an object"
