"""The command line of a serving replica: `python -m serving CONFIG.yaml --replica I`."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
import uvicorn

from parameter_server.client import ParameterClient
from runtime import logs
from runtime.command import run
from schema.config import Config, ReplicaConfig
from schema.config_file import load_config
from schema.errors import ConfigError
from serving.api import create_app
from serving.memory import Memory
from serving.replica import Replica, now_ms
from serving.senders import kafka_outboxes
from serving.stream import Follower

_log = logging.getLogger(__name__)

_BACKLOG: Final = 2048
_DRAIN_SECONDS: Final = 5
_SWITCH_SECONDS: Final = 0.0005
"""How long a thread may keep the interpreter from another: a round, or Kafka's client, from a feed."""


def main(
    config: Annotated[Path, typer.Argument(help="The configuration, YAML.")],
    replica: Annotated[int, typer.Option(help="Which of serving.replicas to be, from 0.")],
) -> None:
    """Serve feeds until SIGTERM or Ctrl-C, then deliver what waits for Kafka and end."""
    logs.configure(f"replica-{replica}")
    loaded = load_config(config)
    count = len(loaded.serving.replicas)
    if not 0 <= replica < count:
        raise ConfigError(f"--replica: {replica}; legal is 0 to {count - 1}")
    # bound before anything is started, so that a taken port is the only thing an operator sees
    listener = _bind(replica, loaded.serving.replicas[replica])
    torch.set_num_threads(loaded.serving.torch_threads)
    sys.setswitchinterval(_SWITCH_SECONDS)
    _serve(loaded, replica, listener)


def _serve(config: Config, index: int, listener: socket.socket) -> None:
    state = Path(config.run_dir) / f"replica-{index}"
    memory = Memory(state / "memory")
    replica = Replica(
        config,
        index,
        source=ParameterClient(config.parameter_server),
        outboxes=kafka_outboxes(config.kafka, state / "spool", config.serving.spool_mb),
        follow=lambda intake: Follower(config.kafka, intake, now_ms, memory),
    )
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(replica),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
            # nobody here asks whose request it is
            proxy_headers=False,
            server_header=False,
        )
    )
    crashed = _stop_when_a_thread_fails()
    # uvicorn raises the signal again when it has stopped; the stop was asked for, so it is no failure
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _log.info("listening on %s:%d", *listener.getsockname()[:2])
    server.run(sockets=[listener])
    _log.info("stopped")
    if crashed.is_set():
        sys.exit(1)


def _stop_when_a_thread_fails() -> threading.Event:
    """Have the failure of any background thread end the process: a replica that follows nothing is of no use.

    Returns:
        An event that is set by such a failure.
    """
    failed = threading.Event()

    def stop(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread else "a thread"
        error = args.exc_value or args.exc_type()
        _log.critical("%s failed; stopping", name, exc_info=error)
        failed.set()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.excepthook = stop
    return failed


def _bind(index: int, replica: ReplicaConfig) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: the address is taken or not this machine's.
    """
    try:
        return socket.create_server((replica.host, replica.port), backlog=_BACKLOG, reuse_port=False)
    except OSError as error:
        raise ConfigError(
            f"serving.replicas.{index}: {replica.host}:{replica.port} cannot be listened on "
            f"({error.strerror}); legal is a free port of an address of this machine"
        ) from error


if __name__ == "__main__":
    run(main)
