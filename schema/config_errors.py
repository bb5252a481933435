"""Turns msgspec's account of a wrong configuration into ours: the key's path, the value, what is legal."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

_AT = re.compile(r" - at `(?:key` in `)?\$\.?(?P<path>[^`]*)`$")
_PARTS = re.compile(r"\.\.\.|[^.\[\]]+")
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]+)`")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]+)`")

_WORDS = {
    type(None): "null",
    float: "a number",
    int: "an integer",
    str: "a text",
    bool: "true or false",
    datetime: "a time such as 2022-05-01T00:00:00+08:00",
}


def explain(message: str, raw: Mapping[str, Any], root: type[msgspec.Struct]) -> str:
    """Our text for msgspec's `message` about converting `raw` to `root`."""
    found = _AT.search(message)
    path = _PARTS.findall(found["path"] if found else "")
    where = ".".join("*" if part == "..." else part for part in path)
    said = _AT.sub("", message)
    value, kind = _walk(path, raw, root)
    if unknown := _UNKNOWN.search(said):
        key = f"{where}.{unknown['field']}".lstrip(".")
        given = value.get(unknown["field"]) if isinstance(value, Mapping) else None
        return f"{key}: unknown key (value {given!r}); legal here: {', '.join(_keys(kind))}"
    if missing := _MISSING.search(said):
        key = f"{where}.{missing['field']}".lstrip(".")
        return f"{key}: missing; legal is {legal(_hints(kind).get(missing['field']))}"
    return f"{where or 'the file'}: {value!r} is wrong ({said}); legal is {legal(kind)}"


def legal(kind: Any) -> str:
    """What values of type `kind` are legal, in words."""
    origin = get_origin(kind)
    if origin is Annotated:
        base, *metas = get_args(kind)
        bounds = [b for m in metas if isinstance(m, msgspec.Meta) for b in _bounds(m)]
        return " ".join([legal(base), *bounds])
    if origin is Literal:
        return " or ".join(repr(a) for a in get_args(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(legal(a) for a in get_args(kind))
    if origin in (tuple, dict):
        first, last = legal(get_args(kind)[0]), legal(get_args(kind)[-1])
        return f"a list, each {first}" if origin is tuple else f"a map, each key {first}, each value {last}"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"a map with {', '.join(_keys(kind))}"
    return _WORDS.get(kind, str(kind))


def _bounds(meta: msgspec.Meta) -> list[str]:
    words = {
        "ge": "at least",
        "gt": "above",
        "le": "at most",
        "lt": "below",
        "pattern": "matching",
        "min_length": "of length at least",
        "max_length": "of length at most",
    }
    return [
        f"{word} {getattr(meta, name)}" for name, word in words.items() if getattr(meta, name) is not None
    ]


def _walk(path: list[str], raw: Any, kind: Any) -> tuple[Any, Any]:
    """The value and the type that `path` leads to. msgspec writes an index, and a map's key, as `...`."""
    for depth, part in enumerate(path):
        kind = _element(kind) if part == "..." or part.isdigit() else _hints(kind).get(part)
        if isinstance(raw, list) and part.isdigit():
            raw = raw[int(part)]
        elif isinstance(raw, Mapping) and part != "...":
            raw = raw.get(part)
        elif part == "...":
            return _first_bad(raw, path[depth + 1 :], kind), _walk(path[depth + 1 :], None, kind)[1]
    return raw, kind


def _first_bad(items: Any, rest: list[str], kind: Any) -> Any:
    """The value at `rest` of the first element, of a list or map, that does not convert to `kind`."""
    elements = items.values() if isinstance(items, Mapping) else items if isinstance(items, list) else []
    for item in elements:
        try:
            msgspec.convert(item, kind)
        except msgspec.ValidationError:
            return _walk(rest, item, kind)[0]
    return items


def _element(kind: Any) -> Any:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    choices = get_args(kind)
    if not choices:
        return None
    return choices[1] if get_origin(kind) is dict else choices[0]


def _hints(kind: Any) -> dict[str, Any]:
    section = _section(kind)
    return get_type_hints(section, include_extras=True) if section else {}


def _keys(kind: Any) -> list[str]:
    section = _section(kind)
    return sorted(f.encode_name for f in msgspec.structs.fields(section)) if section else []


def _section(kind: Any) -> type[msgspec.Struct] | None:
    """The struct that `kind` is, or may be where it is optional."""
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return next((c for c in choices if isinstance(c, type) and issubclass(c, msgspec.Struct)), None)
