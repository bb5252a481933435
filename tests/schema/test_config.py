"""A wrong configuration is refused by name before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from schema.config_file import dump_config, load_config, parse_override
from schema.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
ONE: dict[str, Any] = {"retrieval": None}
"""For tables among which there is none for retrieval."""
LOCAL = CONFIGS / "local.yaml"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_configuration_is_legal_and_survives_a_dump(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    dump_config(config, tmp_path / "copy.yaml")
    assert load_config(tmp_path / "copy.yaml") == config


def test_a_file_extends_another() -> None:
    base, over = load_config(LOCAL), load_config(CONFIGS / "replay.yaml")
    assert over.streaming.window_seconds != base.streaming.window_seconds
    assert over.parameter_server == base.parameter_server


def test_a_seed_may_be_any_64_bits(tmp_path: Path) -> None:
    config = load_config(
        LOCAL, {**ONE, "parameter_server.tables": [{"name": "embedding", "seed": 2**64 - 1}]}
    )
    dump_config(config, tmp_path / "copy.yaml")
    assert load_config(tmp_path / "copy.yaml").parameter_server.tables[0].seed == 2**64 - 1


@pytest.mark.parametrize(
    ("dim", "classes"), [(16, (4, 8, 16)), (32, (4, 8, 16, 32)), (64, (4, 8, 16, 32, 64)), (4, (4,))]
)
def test_a_table_whose_rows_grow_has_these_widths_unless_told(dim: int, classes: tuple[int, ...]) -> None:
    grow_at = list(range(2, 1 + len(classes)))
    table = {"name": "embedding", "dim": dim, "grow_at": grow_at}
    config = load_config(LOCAL, {**ONE, "parameter_server.tables": [table]})
    assert config.parameter_server.tables[0].classes == classes


@dataclass(frozen=True)
class Case:
    key: str
    value: Any
    says: tuple[str, ...]


CASES = [
    Case("streaming.late_horizon_seconds", 1, ("streaming.late_horizon_seconds: 1", "at least", "5")),
    Case("streaming.sampling", {"score_task": "x"}, ("streaming.sampling.score_task: 'x'", "click")),
    Case("streaming.emission", "sometimes", ("streaming.emission", "sometimes")),
    Case("kafka.bootsrap", "a:1", ("kafka.bootsrap: unknown key", "'a:1'", "bootstrap")),
    Case("colour", 1, ("colour: unknown key", "kafka")),
    Case("kafka.local_port", "x", ("kafka.local_port: 'x'", "an integer at least 1 at most 65535")),
    Case("kafka.local_port", 70000, ("kafka.local_port: 70000", "at most 65535")),
    Case("sync.sparse_seconds", 0.5, ("sync.sparse_seconds: 0.5", "at least 1")),
    Case("streaming", None, ("streaming: None", "window_seconds")),
    Case("tasks", [], ("tasks: []", "length at least 1")),
    Case("tasks", [{"name": "click"}], ("tasks.0.actions: missing", "a list")),
    Case("tasks", [{"name": "a", "actions": ["x"]}] * 2, ("tasks: 'a' is given twice",)),
    Case("parameter_server.tables", [{"name": "embedding", "dim": 0}], ("tables.0.dim: 0", "at least 1")),
    *[
        Case("parameter_server.tables", [{"name": "embedding", "dim": 8, **wrong}], says)
        for wrong, says in (
            ({"seed": 2**64}, ("tables.embedding.seed: 18446744073709551616", "legal is 0 to 2^64-1")),
            ({"seed": -1}, ("tables.0.seed: -1", "at least 0")),
            ({"widths": [4, 16], "grow_at": [2]}, ("embedding.widths: [4, 16]", "the last one dim, 8")),
            ({"widths": [8, 4, 8], "grow_at": [2, 3]}, ("embedding.widths: [8, 4, 8]", "ascending")),
            ({"grow_at": [3, 9]}, ("embedding.grow_at: [3, 9]", "legal is 1 numbers of pushes")),
            ({"widths": [4, 8]}, ("embedding.grow_at: []", "legal is 1 numbers of pushes")),
            ({"widths": [2, 4, 8], "grow_at": [3, 3]}, ("embedding.grow_at: [3, 3]", "ascending")),
            ({"admission": {"kind": "count", "threshold": 256}}, ("threshold: 256", "at most 255")),
            ({"slots": {"65536": {}}}, ("tables.0.slots: {'65536': {}}", "each key an integer", "65535")),
            ({"slots": {1: {"ttl_seconds": -2}}}, ("tables.0.slots", "ttl_seconds: -2", "above 0")),
        )
    ],
    Case("parameter_server.shards", [{"port": 1, "ops_port": 1}], ("addresses", "given twice")),
    Case("serving.replicas", [{"port": 1, "freeze_after_seconds": 1}], ("goes on learning",)),
    Case(
        "kafka.topics.user_actions",
        {"name": "a", "partitions": 3},
        ("user_actions.partitions: 3", "legal is 4"),
    ),
    Case(
        "kafka.topics.user_actions",
        {"name": "feature-logs"},
        ("kafka.topics: 'feature-logs' is given twice",),
    ),
    Case("features.slots", [{"name": "a", "slot": 1, "source": "b"}], ("features.slots.0.source: 'b'",)),
    Case(
        "features.slots", [{"name": "a", "slot": 0, "source": "user.id"}], ("slots.0.slot: 0", "at least 1")
    ),
    Case(
        "features.slots",
        [{"name": "a", "slot": 1, "source": "user.id", "table": "none"}],
        ("features.slots.a.table: 'none'", "embedding"),
    ),
    Case(
        "features.slots",
        [{"name": "a", "slot": 1, "source": "history.none"}],
        ("features.slots.a.source: 'history.none'", "history.watched"),
    ),
    Case(
        "features.slots",
        [{"name": "a", "slot": 1, "source": "user.id", "ids_of": "b"}],
        ("features.slots.a.ids_of: 'b'", "one of: a"),
    ),
    Case("retrieval.history", "none", ("retrieval.history: 'none'", "long_viewed")),
    Case("retrieval.positives", "none", ("retrieval.positives: 'none'", "long_view")),
    Case("retrieval.table", "embedding", ("retrieval.table: 'embedding'", "one of: retrieval")),
    Case("parameter_server.tables.1.dim", 1, ("retrieval.table: 'retrieval' has rows of 1", "at least 2")),
    Case(
        "parameter_server.tables.1.grow_at",
        [2, 5, 9],
        ("the rows of 'retrieval' grow, in widths", "of one width"),
    ),
    Case("serving.popular_share", 0.9, ("serving.popular_share: 0.9", "recent_share leaves, 0.8")),
    Case("serving.candidates", 5, ("serving.candidates: 5", "feed_size, 10")),
    Case("trainer.propensity_clip", 1, ("trainer.propensity_clip: 1", "a number above 1")),
    Case("trainer.propensity_clip", "ten", ("trainer.propensity_clip: 'ten'", "a number above 1", "null")),
    Case("trainer.report_period", {"start": "x", "end": "y"}, ("report_period.start: 'x'", "2022-05-01")),
    Case(
        "trainer.report_period",
        {"start": "2022-05-02T00:00:00Z", "end": "2022-05-01T00:00:00Z"},
        ("trainer.report_period.end", "after the start"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.key}={c.value}")
def test_the_error_names_the_key_the_value_and_what_is_legal(case: Case) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(LOCAL, {**(ONE if case.key == "parameter_server.tables" else {}), case.key: case.value})
    for part in case.says:
        assert part in str(caught.value)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "legal is a map"),
        ("a: [", "not YAML"),
        ("kafka: {}\nkafka: {}\n", "'kafka' is given twice"),
        ("extends: 7", "extends: 7"),
        ("extends: none.yaml", "none.yaml: cannot be read"),
        ("extends: wrong.yaml", "circle"),
        ("features: none.yaml", "none.yaml: cannot be read"),
        ("kafka: {}", "features: missing"),
    ],
)
def test_a_wrong_file_is_named(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(write(tmp_path / "wrong.yaml", text))


def test_overrides_reach_into_lists() -> None:
    assert (
        load_config(LOCAL, {"parameter_server.shards.1.port": 4321}).parameter_server.shards[1].port == 4321
    )


@pytest.mark.parametrize(
    ("key", "says"),
    [("sync.sparse_seconds.x", "which has no keys"), ("parameter_server.shards.9.port", "legal is")],
)
def test_an_override_of_nothing_is_refused(key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(LOCAL, {key: 1})


def test_override_texts() -> None:
    assert parse_override("sync.sparse_seconds=2.5") == ("sync.sparse_seconds", 2.5)
    assert parse_override("kafka.bootstrap=a:1,b:2") == ("kafka.bootstrap", "a:1,b:2")
    for text in ("sync", "=1"):
        with pytest.raises(ConfigError, match=r"legal is key\.path=value"):
            parse_override(text)
