"""Recovery points and journals on disk: what is torn counts for nothing, what is damaged is passed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.fakes import Clock, FakeServer, Killer
from tests.trainer.make import config
from trainer.checkpoint import Image, encode_image, read_image, write_whole
from trainer.entries import Position, Run
from trainer.errors import RecoveryError, UnknownPoint
from trainer.journal import Push, PushRecord, RecordWriter, StepRecord, read_records
from trainer.manifest import Cut, Manifest, ShardPlace
from trainer.points import PointStore
from trainer.process import choose
from trainer.state import TrainerState
from trainer.step import Learner


def record(step: int) -> StepRecord:
    runs = (Run(0, Position(step), Position(step, 3)), Run(1, Position(0, 2), Position(step)))
    return StepRecord(step, runs, 2)


def push(step: int) -> Push:
    ids = np.array([step, 1 << 60], np.uint64)
    return Push(step, 1000 + step, {"embedding": (ids, np.full((2, 4), step, np.float32))})


def image(step: int) -> Image:
    settings = config()
    state = TrainerState(settings, Learner(settings, FakeServer(Killer(), Clock())))
    state.counters.step = step
    return state.image()


def cut(step: int, *, follows: bool = False) -> Cut:
    positions = {0: Position(step, 1)}
    return Cut(image(step), follows, None, 1, step, 10 * step, settled=False, positions=positions)


def make(store: PointStore, step: int, *, pushes: int = 1, follows: bool = False) -> Manifest:
    draft = store.begin()
    for at in range(step - pushes + 1, step + 1):
        draft.pushes.append(push(at).record())
    journal = store.cut()
    return store.commit(
        draft, cut(step, follows=follows), journal, f"point-{draft.number}", (ShardPlace(1, step),)
    )


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    writer: RecordWriter[StepRecord] = RecordWriter(path)
    for step in (1, 2, 3):
        writer.append(record(step))
    writer.close()
    return path


def test_a_journal_reads_back(journal: Path):
    assert read_records(journal, StepRecord) == [record(1), record(2), record(3)]


def test_a_torn_last_record_is_dropped_wherever_it_was_cut(journal: Path):
    data = journal.read_bytes()
    size = len(data) // 3
    for end in range(2 * size, 3 * size):
        journal.write_bytes(data[:end])
        assert [r.step for r in read_records(journal, StepRecord)] == [1, 2]


@pytest.mark.parametrize(("byte", "left"), [(-1, [1, 2]), (20, [])])
def test_nothing_from_a_damaged_record_on_is_read(journal: Path, byte: int, left: list[int]):
    data = bytearray(journal.read_bytes())
    data[byte] ^= 1
    journal.write_bytes(data)
    assert [r.step for r in read_records(journal, StepRecord)] == left


def test_a_push_reads_back_as_it_was(tmp_path: Path):
    writer: RecordWriter[PushRecord] = RecordWriter(tmp_path / "pushes")
    empty = Push(2, 5, {"embedding": (np.empty(0, np.uint64), np.empty((0, 4), np.float32))})
    writer.append(push(1).record())
    writer.append(empty.record())
    writer.close(sync=True)
    first, second = (Push.of(r) for r in read_records(tmp_path / "pushes", PushRecord))
    ids, gradients = first.gradients["embedding"]
    assert (first.step, first.event_time, ids.tolist()) == (1, 1001, [1, 1 << 60])
    assert (gradients.dtype, gradients.tolist()) == (np.float32, [[1.0] * 4] * 2)
    assert len(second.gradients["embedding"][0]) == 0


def test_an_image_reads_back(tmp_path: Path):
    write_whole(tmp_path / "c", encode_image(image(7)))
    assert read_image(tmp_path / "c") == image(7)


@pytest.mark.parametrize("end", [0, 3, 100, -1])
def test_a_cut_image_is_refused(tmp_path: Path, end: int):
    write_whole(tmp_path / "c", encode_image(image(7)))
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:end])
    with pytest.raises(RecoveryError, match=r"checksum|not an image"):
        read_image(tmp_path / "c")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PointStore]:
    made = PointStore(tmp_path, 2)
    yield made
    made.close()


def again(store: PointStore, folder: Path) -> PointStore:
    store.close()
    return PointStore(folder, 2)


def test_an_empty_folder_has_nothing(store: PointStore):
    assert store.load() is None
    assert store.points() == []


def test_the_newest_point_with_its_pushes_and_the_steps_since_in_all_lives(store: PointStore, tmp_path: Path):
    make(store, 2)
    store.append(record(3))
    made = make(store, 4, pushes=3)
    store.append(record(5))
    with_more = again(store, tmp_path)
    with_more.append(record(6))
    last = again(with_more, tmp_path)
    loaded = last.load()
    last.close()
    assert loaded is not None
    assert loaded.manifest == made
    assert loaded.image.counters.step == 4
    assert [p.step for p in loaded.pushes] == [2, 3, 4]
    assert [r.step for r in loaded.records] == [5, 6]


def test_what_no_point_needs_goes(store: PointStore, tmp_path: Path):
    for step in (2, 4, 6):
        make(store, step)
        store.append(record(step + 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "journal-00000003.log",
        "journal-00000004.log",
        "lock",
        "point-00000002.json",
        "point-00000003.json",
        "pushes-00000002.log",
        "pushes-00000003.log",
        "state-00000002.bin",
        "state-00000003.bin",
    ]


@pytest.mark.parametrize("damaged", ["point-00000002.json", "state-00000002.bin", "pushes-00000002.log"])
def test_a_damaged_newest_point_loses_no_step(store: PointStore, tmp_path: Path, damaged: str):
    make(store, 2)
    store.append(record(3))
    store.append(record(4))
    make(store, 4)
    store.append(record(5))
    (tmp_path / damaged).write_bytes(b"damaged")
    loaded = store.load()
    assert loaded is not None
    assert loaded.manifest.number == 1
    assert [r.step for r in loaded.records] == [3, 4, 5]


def test_the_states_that_a_point_follows_stay_with_it(store: PointStore, tmp_path: Path):
    assert not store.may_be_followed()
    made = make(store, 1)
    for step in (2, 3, 4):
        assert store.may_be_followed() == (step == 2), "what follows is as large as the first here"
        made = make(store, step, follows=True)
    names = [f"state-0000000{number}.bin" for number in (1, 2, 3, 4)]
    assert [*made.before, made.state] == names
    assert sorted(path.name for path in tmp_path.glob("state-*")) == names
    loaded = store.load()
    assert loaded is not None
    assert loaded.image == image(4)
    for step in (5, 6):
        make(store, step)
    assert sorted(path.name for path in tmp_path.glob("state-*")) == [
        "state-00000005.bin",
        "state-00000006.bin",
    ]


def test_nothing_follows_what_another_life_made_or_what_is_gone(store: PointStore, tmp_path: Path):
    make(store, 1)
    (tmp_path / "state-00000001.bin").unlink()
    assert not store.may_be_followed()
    make(store, 2)
    assert store.may_be_followed()
    store.roll_back(2)
    assert not store.may_be_followed()
    after = again(store, tmp_path)
    assert not after.may_be_followed()
    after.close()


def test_points_that_follow_a_damaged_state_are_not_whole(store: PointStore, tmp_path: Path):
    make(store, 1)
    make(store, 2, follows=True)
    make(store, 3)
    made = make(store, 4, follows=True)
    (tmp_path / made.before[0]).write_bytes(b"damaged")
    with pytest.raises(RecoveryError, match="no recovery point is whole"):
        store.load()  # both that are kept begin with it


def test_a_point_from_before_states_followed_one_another_is_read(store: PointStore, tmp_path: Path):
    made = make(store, 2)
    path = tmp_path / "point-00000001.json"
    path.write_text(path.read_text().replace(',"before":[]', ""))
    assert "before" not in path.read_text()
    loaded = store.load()
    assert loaded is not None
    assert (loaded.manifest, loaded.image) == (made, image(2))


def test_points_of_which_none_is_whole_are_refused_rather_than_begun_anew(store: PointStore, tmp_path: Path):
    make(store, 2)
    (tmp_path / "state-00000001.bin").write_bytes(b"damaged")
    with pytest.raises(RecoveryError, match="no recovery point is whole"):
        store.load()


def test_a_draft_that_never_became_a_point_is_none_and_its_files_go(store: PointStore, tmp_path: Path):
    make(store, 2)
    store.begin().pushes.close()
    after = again(store, tmp_path)
    assert [point.number for point in after.points()] == [1]
    made = make(after, 3)
    after.close()
    assert made.number == 3
    assert not (tmp_path / "pushes-00000002.log").exists()


def test_a_rollback_makes_an_earlier_point_the_newest_without_its_steps(store: PointStore, tmp_path: Path):
    first = make(store, 2)
    store.append(record(3))
    make(store, 3)
    store.append(record(4))
    made = store.roll_back(1)
    assert (made.number, made.returned_to, made.state) == (3, 1, first.state)
    store.append(record(3))
    after = again(store, tmp_path)
    loaded = after.load()
    after.close()
    assert loaded is not None
    assert loaded.manifest == made
    assert [r.step for r in loaded.records] == [3]
    assert (tmp_path / first.state).exists()


def test_an_unknown_point_is_refused_with_those_that_there_are(store: PointStore):
    with pytest.raises(UnknownPoint, match="point: 7; legal are none yet"):
        store.roll_back(7)
    make(store, 2)
    make(store, 3)
    with pytest.raises(UnknownPoint, match="point: 7; legal are 1, 2"):
        store.roll_back(7)


@pytest.mark.parametrize("number", ["1", 1.0, True, 3, -1])
def test_what_is_no_number_of_a_point_is_refused(store: PointStore, number: object):
    points = [make(store, 2), make(store, 3)]
    with pytest.raises(UnknownPoint, match="legal are 1, 2"):
        choose(points, number)


def test_the_point_before_the_newest_is_what_a_rollback_goes_to(store: PointStore):
    points = [make(store, 2)]
    with pytest.raises(UnknownPoint, match="point: None; legal are 1"):
        choose(points, None)
    points.append(make(store, 3))
    assert choose(points, None).number == 1
    assert choose(points, 2).number == 2


def test_a_folder_belongs_to_one_trainer(store: PointStore, tmp_path: Path):
    with pytest.raises(RecoveryError, match="another trainer uses it"):
        PointStore(tmp_path, 2)
    again(store, tmp_path).close()


def test_a_point_of_another_configuration_is_refused():
    settings = config(seed=1)
    saved = image(1)
    state = TrainerState(settings, Learner(settings, FakeServer(Killer(), Clock())))
    for changed, text in (
        ({"topic": "other"}, "topic: 'other'"),
        ({"tasks": ("a",)}, "tasks"),
        ({"torch": b"x"}, "model"),
    ):
        fields = {name: getattr(saved, name) for name in saved.__struct_fields__} | changed
        with pytest.raises(RecoveryError, match=text):
            state.restore(Image(**fields))
