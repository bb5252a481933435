"""Stopping processes: in order, within one deadline, by force where asking does not help."""

import subprocess
import sys
import time
from pathlib import Path

from runtime.processes import last_lines, stop_groups

_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
_ORDERLY = (
    "import signal, sys, time\n"
    "def end(*_): open(sys.argv[1], 'a').write(sys.argv[2]); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, end); print('up', flush=True); time.sleep(600)"
)


def start(code, *arguments):
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == b"up\n"
    return process


def test_groups_stop_one_after_the_other(tmp_path):
    order = tmp_path / "order"
    first, second = start(_ORDERLY, order, "a"), start(_ORDERLY, order, "b")
    stop_groups([[second], [first]], 20)
    assert order.read_text() == "ba"
    assert (first.returncode, second.returncode) == (0, 0)


def test_one_that_does_not_stop_is_killed_and_leaves_the_later_ones_their_time(tmp_path):
    order = tmp_path / "order"
    stubborn, orderly = start(_STUBBORN), start(_ORDERLY, order, "a")
    begin = time.monotonic()
    stop_groups([[stubborn], [orderly]], 2.0)
    assert time.monotonic() - begin < 10
    assert stubborn.returncode == -9
    assert orderly.returncode == 0


def test_one_that_has_ended_already_is_fine():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(20)
    stop_groups([[process]], 1)


def test_the_last_lines_of_a_file(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"a\nb\xff\nc\n")
    assert last_lines(path, 2) == "b\N{REPLACEMENT CHARACTER}\nc"
    assert last_lines(Path("/nowhere/log")) == "(/nowhere/log: No such file or directory)"
    path.write_text("")
    assert last_lines(path) == f"({path} is empty)"
