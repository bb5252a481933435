"""The cache of the broker's files: used if there, whole or not there at all."""

import pytest

from runtime import kafka_jars as module
from runtime.errors import KafkaJarsUnavailable
from runtime.kafka_jars import VERSION, kafka_jars


def fetched(scratch):
    jars = scratch / "jars"
    jars.mkdir()
    (jars / "kafka.jar").write_bytes(b"jar")
    return jars


def test_what_is_cached_is_used_without_a_fetch(tmp_path, monkeypatch):
    (tmp_path / f"kafka-{VERSION}").mkdir()
    monkeypatch.setattr(module, "_fetch", pytest.fail)
    assert kafka_jars(tmp_path) == tmp_path / f"kafka-{VERSION}"


def test_a_fetch_that_fails_is_tried_again_from_scratch(tmp_path, monkeypatch):
    seen = []

    def fetch(scratch):
        assert list(scratch.iterdir()) == []
        (scratch / "half").touch()
        seen.append(scratch)
        if len(seen) < 3:
            raise ConnectionError("reset")
        return fetched(scratch)

    monkeypatch.setattr(module, "_fetch", fetch)
    assert [path.name for path in kafka_jars(tmp_path).iterdir()] == ["kafka.jar"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"kafka-{VERSION}", f"kafka-{VERSION}.lock"]


def test_without_a_network_the_error_says_what_to_do_and_leaves_nothing(tmp_path, monkeypatch):
    def fetch(scratch):
        raise RuntimeError("no route")

    monkeypatch.setattr(module, "_fetch", fetch)
    with pytest.raises(KafkaJarsUnavailable, match=r"no route.*mirror.*kafka.bootstrap"):
        kafka_jars(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"kafka-{VERSION}.lock"]


def test_the_default_cache_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "headwater" / f"kafka-{VERSION}").mkdir(parents=True)
    assert kafka_jars() == tmp_path / "headwater" / f"kafka-{VERSION}"
