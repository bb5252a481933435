"""The supervisor: stages, readiness, restarts with back-off, ordered stop, nothing left behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from runtime.child import ProcessSpec, print_line
from runtime.errors import ProcessFailed
from runtime.supervisor import Supervisor
from schema.config import LaunchConfig
from tests.polling import wait_until

_FAST = LaunchConfig(ready_seconds=20, stop_seconds=10, backoff_seconds=0.05, backoff_max_seconds=0.4)
# says that it is up, then notes in a file that it was asked to stop, and ends
_ROLE = (
    "import signal, sys, time\n"
    "def end(*_): open(sys.argv[1], 'a').write(sys.argv[2] + ' '); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, end); print(sys.argv[2], 'up', flush=True); time.sleep(600)"
)


class Lines(list[tuple[str, str]]):
    """Collects what the processes print."""

    def __call__(self, name, line):
        self.append((name, line))


@pytest.fixture
def supervise(tmp_path):
    made = []

    def make(*specs, config=_FAST, on_line=print_line):
        made.append(Supervisor(specs, config, tmp_path / "run", on_line))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.stop()


def python(name, code, *arguments, **fields):
    return ProcessSpec(name, (sys.executable, "-c", code, *map(str, arguments)), **fields)


def role(name, tmp_path, lines, stage=0):
    return python(
        name, _ROLE, tmp_path / "stops", name, stage=stage, ready=lambda: (name, f"{name} up") in lines
    )


def state(tmp_path):
    return json.loads((tmp_path / "run" / "processes.json").read_text())


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_stages_start_in_order_and_stop_in_reverse(supervise, tmp_path):
    lines = Lines()
    specs = [role(name, tmp_path, lines, stage) for name, stage in (("c", 2), ("a", 0), ("b", 1))]
    supervisor = supervise(*specs, on_line=lines)
    supervisor.start()
    assert lines == [("a", "a up"), ("b", "b up"), ("c", "c up")]
    assert {name: entry["pid"] for name, entry in state(tmp_path).items()} == supervisor.pids()
    pids = supervisor.pids().values()
    supervisor.stop()
    assert (tmp_path / "stops").read_text() == "c b a "
    assert state(tmp_path) == {name: {"pid": None, "restarts": 0} for name in "abc"}
    assert not any(is_running(pid) for pid in pids)


def test_a_killed_process_comes_back_under_its_name_and_the_count_is_kept(supervise, tmp_path):
    lines = Lines()
    supervisor = supervise(role("a", tmp_path, lines), role("b", tmp_path, lines), on_line=lines)
    supervisor.start()
    first = supervisor.pids()
    os.kill(first["a"], signal.SIGKILL)
    wait_until(lambda: lines.count(("a", "a up")) == 2, 20)
    assert supervisor.restarts() == {"a": 1, "b": 0}
    now = supervisor.pids()
    assert now["b"] == first["b"]
    assert now["a"] != first["a"]
    wait_until(lambda: state(tmp_path)["a"] == {"pid": now["a"], "restarts": 1}, 10)


def test_one_that_keeps_dying_is_restarted_less_and_less_often(supervise, caplog):
    supervisor = supervise(python("a", "import sys; sys.exit(3)", ready=lambda: True))
    supervisor.start()
    wait_until(lambda: supervisor.restarts()["a"] >= 4, 30)
    waits = [r.args[2] for r in caplog.records if r.msg.startswith("%s %s; restarting")]
    assert waits[:4] == [0.05, 0.1, 0.2, 0.4]
    assert "a ended with status 3; restarting in" in caplog.text


def test_one_that_ends_before_it_is_ready_fails_the_start_with_its_last_lines(supervise, tmp_path):
    lines = Lines()
    ends = python("b", "import sys; print('no such key'); sys.exit(2)", stage=1, ready=lambda: False)
    supervisor = supervise(role("a", tmp_path, lines), ends, on_line=lines)
    with pytest.raises(ProcessFailed, match=r"(?s)b ended with status 2 before it was ready.*no such key"):
        supervisor.start()
    assert (tmp_path / "stops").read_text() == "a "
    assert supervisor.pids() == {"a": None, "b": None}
    with pytest.raises(ProcessFailed):
        supervisor.wait()


def test_one_that_never_becomes_ready_fails_the_start(supervise):
    config = LaunchConfig(ready_seconds=0.5, stop_seconds=5)
    sleeper = python("a", "import time; print('loading', flush=True); time.sleep(600)", ready=lambda: False)
    with pytest.raises(ProcessFailed, match=r"(?s)a was not ready within 0.5 s \(launch.ready_seconds\)"):
        supervise(sleeper, config=config).start()


def test_a_one_off_is_ready_when_it_has_ended_well_and_is_not_restarted(supervise, tmp_path):
    once = python("topics", "print('made')", once=True)
    lines = Lines()
    supervisor = supervise(once, role("a", tmp_path, lines, 1), on_line=lines)
    supervisor.start()
    assert lines[0] == ("topics", "made")
    assert supervisor.pids()["topics"] is None
    assert supervisor.restarts()["topics"] == 0


def test_a_one_off_that_fails_ends_the_start(supervise):
    with pytest.raises(ProcessFailed, match="topics ended with status 1"):
        supervise(python("topics", "raise SystemExit(1)", once=True)).start()


def test_a_command_that_cannot_be_run_is_an_error(supervise):
    with pytest.raises(OSError, match="nowhere"):
        supervise(ProcessSpec("a", ("/nowhere/python",))).start()


def test_a_faulty_probe_ends_the_start_instead_of_hanging_it(supervise):
    def probe():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        supervise(python("a", "import time; time.sleep(600)", ready=probe)).start()


def test_the_environment_of_a_process_is_ours_with_one_thread_and_its_own_on_top(supervise, monkeypatch):
    monkeypatch.setenv("HEADWATER_TEST", "ours")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    lines = Lines()
    show = "import os; print(*(os.environ[k] for k in ('HEADWATER_TEST', 'OMP_NUM_THREADS', 'X')))"
    supervise(python("a", show, once=True, env={"X": "its own"}), on_line=lines).start()
    wait_until(lambda: lines == [("a", "ours 1 its own")], 10)


def test_two_processes_of_one_name_are_refused(supervise):
    with pytest.raises(ValueError, match="legal are different names"):
        supervise(python("a", ""), python("a", ""))


def test_stop_before_start_and_twice_does_nothing(supervise, tmp_path):
    supervise(python("a", "")).stop()
    lines = Lines()
    supervisor = supervise(role("a", tmp_path, lines), on_line=lines)
    with supervisor:
        assert supervisor.pids()["a"]
    supervisor.stop()


def test_a_killed_supervisor_takes_its_processes_with_it(tmp_path):
    code = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from runtime.child import ProcessSpec
        from runtime.supervisor import Supervisor
        from schema.config import LaunchConfig
        sleeper = ProcessSpec("a", (sys.executable, "-c", "import time; time.sleep(600)"))
        supervisor = Supervisor([sleeper], LaunchConfig(), Path(sys.argv[1]))
        supervisor.start()
        print(supervisor.pids()["a"], flush=True)
        time.sleep(600)
    """)
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout as output:
        child = int(output.readline())
    assert is_running(child)
    parent.kill()
    parent.wait(10)
    wait_until(lambda: not is_running(child), 10)


def test_a_line_is_printed_behind_the_name(capsys):
    print_line("shard-0", "ready")
    assert capsys.readouterr().err == "shard-0    | ready\n"


def test_a_stop_during_the_start_ends_it(supervise):
    waits = python("a", "import time; time.sleep(600)", ready=lambda: threading.Thread(target=stop).start())
    supervisor = supervise(waits)

    def stop():
        supervisor.stop()

    assert supervisor.start() is False
    wait_until(lambda: supervisor.pids() == {"a": None}, 20)
