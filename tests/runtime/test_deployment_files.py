"""The compose file and the Dockerfile name the same roles, commands and broker as the code does."""

import json
import re
from pathlib import Path

import pytest
import yaml

from runtime.kafka_jars import VERSION
from runtime.roles import process_specs
from schema.config_file import load_config

_CLUSTER = Path("configs/cluster.yaml")


@pytest.fixture
def compose():
    return yaml.safe_load(Path("docker-compose.yml").read_text())


@pytest.fixture
def config():
    return load_config(_CLUSTER)


def test_the_services_are_the_roles_of_the_cluster_with_their_commands(compose, config):
    roles = {spec.name: ["python", *spec.argv[1:]] for spec in process_specs(config, _CLUSTER)}
    services = {name: service.get("command") for name, service in compose["services"].items()}
    for bought in ("kafka", "prometheus", "grafana"):
        assert services.pop(bought) is None
    assert services == roles


def test_the_broker_is_the_official_image_of_the_version_that_the_tests_run_on(compose, config):
    kafka = compose["services"]["kafka"]
    assert kafka["image"] == f"apache/kafka:{VERSION}"
    assert kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{config.kafka.bootstrap}"


def test_hosts_of_the_cluster_are_services_and_its_state_is_on_a_volume(compose, config):
    hosts = {s.host for s in config.parameter_server.shards} | {r.host for r in config.serving.replicas}
    assert hosts <= set(compose["services"])
    (volume,) = compose["services"]["trainer"]["volumes"]
    assert volume == f"state:{config.run_dir}"
    assert {"kafka", "state"} == set(compose["volumes"])


def test_the_port_of_the_replica_is_published(compose, config):
    port = config.serving.replicas[0].port
    assert compose["services"]["replica-0"]["ports"] == [f"{port}:{port}"]


def test_the_dockerfile_is_made_of_known_instructions_and_starts_the_launcher():
    text = re.sub(r"\\\n", " ", Path("Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    instructions = [line.split()[0] for line in lines]
    assert instructions[0] == "FROM"
    assert set(instructions) <= {"FROM", "ARG", "WORKDIR", "ENV", "COPY", "RUN", "CMD"}
    assert lines[0] == "FROM python:3.11-slim"
    assert lines[-1] == f'CMD ["python", "-m", "runtime.launch", "{_CLUSTER}"]'


def test_prometheus_asks_every_role_where_it_answers(config):
    scraped = yaml.safe_load(Path("ops/prometheus.yml").read_text())["scrape_configs"]
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in scraped}
    assert targets == {
        "shard": [f"{s.host}:{s.ops_port}" for s in config.parameter_server.shards],
        "joiner": [f"joiner-{i}:{config.streaming.ops_port + i}" for i in range(config.streaming.workers)],
        "trainer": [f"trainer:{config.trainer.ops_port}"],
        "replica": [f"{r.host}:{r.port}" for r in config.serving.replicas],
    }


def test_dashboards_and_alerts_ask_for_metrics_that_exist():
    dashboard = json.loads(Path("ops/grafana/dashboards/headwater.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load(Path("ops/alerts.yml").read_text())["groups"][0]["rules"]
    asked += [rule["expr"] for rule in rules]
    code = "\n".join(
        file.read_text()
        for folder in ("serving", "trainer", "streaming")
        for file in Path(folder).glob("*.py")
    )
    quality = {f"headwater_trainer_{name}" for name in ("auc", "calibration")}
    for expression in asked:
        for metric in re.findall(r"\b(?:headwater|joiner)_[a-z_]+", expression):
            name = re.sub(r"_(total|bucket)$", "", metric)
            assert metric in quality or f'"{name}"' in code, f"{metric} in {expression}"


def test_every_alert_says_what_it_means_and_where_to_look():
    for rule in yaml.safe_load(Path("ops/alerts.yml").read_text())["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "look"}
