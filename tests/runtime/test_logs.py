"""Logging: one line format with the role, chatty libraries kept quiet."""

import json
import logging

import pytest

from runtime import logs
from schema.errors import ConfigError


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


def test_a_line_says_what_it_is_about_and_only_within(capsys):
    logs.configure("replica-0")
    log = logging.getLogger("serving.feed")
    with logs.about(request_id="r7"), logs.about(trace="t1"):
        log.info("odd")
    log.info("even")
    inside, outside = capsys.readouterr().err.splitlines()
    assert inside.endswith("serving.feed: odd request_id=r7 trace=t1")
    assert outside.endswith("serving.feed: even")


def test_json_lines_hold_the_same_and_any_text(capsys, monkeypatch):
    monkeypatch.setenv(logs.FORM, "json")
    logs.configure("replica-0")
    log = logging.getLogger("serving.feed")
    with logs.about(request_id="r\ud800"):
        try:
            int("two\nlines")
        except ValueError:
            log.exception("it %s", "failed")
    (line,) = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert "ValueError: invalid literal" in found.pop("exception")
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "role": "replica-0",
        "level": "ERROR",
        "logger": "serving.feed",
        "message": "it failed",
        "request_id": "r?",
    }


def test_an_unknown_form_is_refused_with_the_legal_ones(monkeypatch):
    monkeypatch.setenv(logs.FORM, "xml")
    with pytest.raises(ConfigError, match="HEADWATER_LOGS: 'xml'; legal are text and json"):
        logs.configure("trainer")
