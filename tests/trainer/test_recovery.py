"""Journals and checkpoints: what is torn is dropped, what is damaged is refused, an older one serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.fakes import Clock, FakeServer, Killer
from tests.trainer.make import config
from trainer.checkpoint import Image, read_checkpoint, write_checkpoint
from trainer.entries import Position, Run
from trainer.errors import RecoveryError
from trainer.journal import JournalWriter, StepRecord, read_journal
from trainer.recovery import RecoveryStore
from trainer.state import TrainerState
from trainer.step import Learner


def record(step: int) -> StepRecord:
    runs = (Run(0, Position(step), Position(step, 3)), Run(1, Position(0, 2), Position(step)))
    return StepRecord(step, runs, 2, bytes(range(16)))


def image(step: int) -> Image:
    settings = config()
    state = TrainerState(settings, Learner(settings, FakeServer(Killer(), Clock())), 2)
    state.counters.step = step
    return state.image()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    writer = JournalWriter(path)
    for step in (1, 2, 3):
        writer.append(record(step))
    writer.close()
    return path


def test_a_journal_reads_back(journal: Path):
    assert read_journal(journal) == [record(1), record(2), record(3)]
    assert read_journal(journal)[0].prediction_matrix().shape == (2, 2)


def test_a_journal_is_appended_to(journal: Path):
    writer = JournalWriter(journal)
    writer.append(record(4))
    writer.close()
    assert [r.step for r in read_journal(journal)] == [1, 2, 3, 4]


def test_a_torn_last_record_is_dropped_wherever_it_was_cut(journal: Path):
    data = journal.read_bytes()
    size = len(data) // 3
    for cut in range(2 * size, 3 * size):
        journal.write_bytes(data[:cut])
        assert [r.step for r in read_journal(journal)] == [1, 2]


def test_a_last_record_with_wrong_bytes_is_dropped(journal: Path):
    data = bytearray(journal.read_bytes())
    data[-1] ^= 1
    journal.write_bytes(data)
    assert [r.step for r in read_journal(journal)] == [1, 2]


def test_a_damaged_record_before_the_last_is_refused(journal: Path):
    data = bytearray(journal.read_bytes())
    data[20] ^= 1
    journal.write_bytes(data)
    with pytest.raises(RecoveryError, match="record at byte 0 is damaged"):
        read_journal(journal)


def test_a_checkpoint_reads_back(tmp_path: Path):
    write_checkpoint(tmp_path / "c", image(7))
    assert read_checkpoint(tmp_path / "c") == image(7)


@pytest.mark.parametrize("cut", [0, 3, 100, -1])
def test_a_cut_checkpoint_is_refused(tmp_path: Path, cut: int):
    write_checkpoint(tmp_path / "c", image(7))
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:cut])
    with pytest.raises(RecoveryError, match=r"checksum|not a checkpoint"):
        read_checkpoint(tmp_path / "c")


def test_an_empty_folder_has_nothing(tmp_path: Path):
    store = RecoveryStore(tmp_path / "new")
    assert store.load() == (None, [])
    store.close()


def filled(folder: Path) -> None:
    """Checkpoints at steps 0, 2 and 4, and step 5 after the last."""
    store = RecoveryStore(folder)
    store.load()
    for at in (0, 2, 4):
        store.save(image(at))
        store.append(record(at + 1))
        if at < 4:
            store.append(record(at + 2))
    store.close()


def reopened(folder: Path) -> tuple[int, list[int]]:
    store = RecoveryStore(folder)
    try:
        loaded, records = store.load()
    finally:
        store.close()
    assert loaded is not None
    return loaded.counters.step, [r.step for r in records]


def test_the_newest_checkpoint_and_the_steps_since(tmp_path: Path):
    filled(tmp_path)
    assert reopened(tmp_path) == (4, [5])


def test_two_checkpoints_are_kept_with_their_journals(tmp_path: Path):
    filled(tmp_path)
    names = sorted(p.name.partition(".")[0] for p in tmp_path.iterdir())
    assert names == [
        "checkpoint-00000002",
        "checkpoint-00000003",
        "journal-00000002",
        "journal-00000003",
        "lock",
    ]


def test_a_damaged_newest_checkpoint_loses_no_step(tmp_path: Path):
    filled(tmp_path)
    (tmp_path / "checkpoint-00000003.ckpt").write_bytes(b"damaged")
    assert reopened(tmp_path) == (2, [3, 4, 5])


def test_a_half_written_checkpoint_is_none(tmp_path: Path):
    filled(tmp_path)
    (tmp_path / "checkpoint-00000004.tmp").write_bytes(b"half")
    assert reopened(tmp_path) == (4, [5])


def test_a_missing_journal_is_refused(tmp_path: Path):
    filled(tmp_path)
    (tmp_path / "checkpoint-00000003.ckpt").write_bytes(b"damaged")
    (tmp_path / "journal-00000002.log").unlink()
    with pytest.raises(RecoveryError, match=r"journal-00000002\.log is missing"):
        reopened(tmp_path)


def test_no_readable_checkpoint_is_refused_rather_than_begun_anew(tmp_path: Path):
    filled(tmp_path)
    for path in tmp_path.glob("*.ckpt"):
        path.write_bytes(b"damaged")
    with pytest.raises(RecoveryError, match="no checkpoint can be read"):
        reopened(tmp_path)


def test_a_folder_belongs_to_one_trainer(tmp_path: Path):
    store = RecoveryStore(tmp_path)
    with pytest.raises(RecoveryError, match="another trainer uses it"):
        RecoveryStore(tmp_path)
    store.close()
    RecoveryStore(tmp_path).close()


def test_a_checkpoint_of_another_configuration_is_refused():
    settings = config(seed=1)
    saved = image(1)
    state = TrainerState(settings, Learner(settings, FakeServer(Killer(), Clock())), 2)
    for changed, text in (
        ({"topic": "other"}, "topic: 'other'"),
        ({"tasks": ("a",)}, "tasks"),
        ({"torch": b"x"}, "model"),
    ):
        fields = {name: getattr(saved, name) for name in saved.__struct_fields__} | changed
        with pytest.raises(RecoveryError, match=text):
            state.restore(Image(**fields))
