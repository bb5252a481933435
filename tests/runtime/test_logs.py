"""Logging: one line format with the role, chatty libraries kept quiet."""

import logging

import pytest

from runtime import logs


@pytest.fixture(autouse=True)
def root_logger():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs._QUIET}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def test_a_line_has_role_level_logger_and_message(capsys):
    logs.configure("shard-0")
    logging.getLogger("parameter_server.shard").info("holds %d rows", 7)
    line = capsys.readouterr().err
    assert line.endswith(" shard-0 INFO parameter_server.shard: holds 7 rows\n")


def test_libraries_that_report_every_step_are_quiet_and_ours_are_not(capsys):
    logs.configure("trainer", "DEBUG")
    logging.getLogger("kafka.net.connection").error("connection lost")
    logging.getLogger("kafka.coordinator").info("joined")
    logging.getLogger("trainer").debug("step")
    assert capsys.readouterr().err.splitlines()[0].endswith("trainer DEBUG trainer: step")


def test_a_role_with_a_percent_sign_is_printed_as_it_is(capsys):
    logs.configure("100%d")
    logging.getLogger("x").info("y")
    assert " 100%d INFO x: y" in capsys.readouterr().err


def test_an_unknown_level_is_refused_with_the_legal_ones():
    with pytest.raises(ValueError, match=r"level: 'LOUD'; legal are .*INFO"):
        logs.configure("trainer", "LOUD")
