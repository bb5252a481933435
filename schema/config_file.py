"""Reads a YAML configuration into `Config`, or says what is wrong with it before anything starts.

A file may `extends:` another (maps are merged, anything else replaced), and `features:` may name a file.
Both paths are relative to the file that holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from schema.config import Config
from schema.config_check import check
from schema.config_errors import explain
from schema.errors import ConfigError


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """The checked configuration in `path`, with `overrides` (dotted key to value) laid over it.

    Raises:
        ConfigError: a file is missing or not YAML; a key is unknown, of the wrong type or out of bounds; or
            two values contradict each other. The text has the key's path, the value and what is legal.
    """
    raw = _read(Path(path), ())
    for key, value in (overrides or {}).items():
        _set(raw, key, value)
    return parse_config(raw)


def parse_config(raw: Mapping[str, Any]) -> Config:
    """As `load_config`, from plain values."""
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(explain(str(error), raw, Config)) from error
    check(config)
    return config


def dump_config(config: Config, path: str | Path) -> None:
    """Writes `config`, whole and resolved, so that `load_config` gives it back."""
    Path(path).write_text(yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False))


def parse_override(text: str) -> tuple[str, Any]:
    """Splits "key.path=value"; the value is read as YAML.

    Raises:
        ConfigError: there is no "=" or no key.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"override: {text!r}; legal is key.path=value, such as sync.sparse_seconds=1")
    return key, yaml.safe_load(value)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return dict(super().construct_mapping(node, deep=deep))


def _read(path: Path, parents: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in parents:
        raise ConfigError(f"extends: {path} extends itself; legal is a chain of files without a circle")
    raw = _yaml(path)
    features = raw.get("features")
    if isinstance(features, str):
        raw["features"] = _yaml(path.parent / features)
    base = raw.pop("extends", None)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise ConfigError(f"extends: {base!r} in {path}; legal is the path of one file")
    return _merge(_read(path.parent / base, (*parents, path.resolve())), raw)


def _yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(), Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); legal is a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds {type(raw).__name__}; legal is a map of keys to values")
    return raw


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (
            _merge(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
        )
    return merged


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    at: Any = raw
    for part in parents:
        at = at[_index(at, part, key)] if isinstance(at, list) else at.setdefault(part, {})
        if not isinstance(at, dict | list):
            raise ConfigError(f"{key}: {part} holds {at!r}, which has no keys; legal is the path of a key")
    at[_index(at, last, key) if isinstance(at, list) else last] = value


def _index(items: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ConfigError(f"{key}: {part!r} is no index of this list; legal is 0 to {len(items) - 1}")
    return int(part)
