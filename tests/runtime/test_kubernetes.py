"""The Kubernetes manifests: each object whole, and all that they say of one another true."""

import re
from pathlib import Path

import kubernetes_validate
import msgspec
import pytest
import yaml

from runtime.kubernetes import manifests
from schema.config import Config
from schema.config_file import load_config
from schema.errors import ConfigError

_CLUSTER = Path("configs/cluster.yaml")


@pytest.fixture
def config() -> Config:
    return load_config(_CLUSTER)


@pytest.fixture
def objects(config):
    # through YAML, as kubectl sees them
    return list(yaml.safe_load_all(yaml.safe_dump_all(manifests(config, "headwater:1"))))


def of(objects, kind):
    return {o["metadata"]["name"]: o for o in objects if o["kind"] == kind}


def workloads(objects):
    return {**of(objects, "StatefulSet"), **of(objects, "Deployment")}


def test_every_role_is_there_once(objects):
    assert set(of(objects, "StatefulSet")) == {"shard"}
    assert set(of(objects, "Deployment")) == {"joiner", "trainer", "replica", "console"}
    kinds = [(o["kind"], o["metadata"]["name"]) for o in objects]
    assert len(set(kinds)) == len(kinds)
    assert all(re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) for _, name in kinds)
    assert all(o["apiVersion"] for o in objects)


def test_selectors_probes_and_mounts_hang_together(objects):
    for name, workload in workloads(objects).items():
        pod = workload["spec"]["template"]
        labels = pod["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"] == labels
        (container,) = pod["spec"]["containers"]
        ports = {p["name"] for p in container["ports"]}
        for probe in ("readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
        service = of(objects, "Service")[name]
        assert service["spec"]["selector"] == labels
        assert {p["targetPort"] for p in service["spec"]["ports"]} == ports
        volumes = {v["name"] for v in pod["spec"]["volumes"]}
        volumes |= {c["metadata"]["name"] for c in workload["spec"].get("volumeClaimTemplates", [])}
        assert {m["name"] for m in container["volumeMounts"]} == volumes


def test_every_object_is_as_the_api_of_kubernetes_has_it(objects):
    for found in objects:
        kubernetes_validate.validate(found, kubernetes_validate.latest_version(), strict=True)


def test_the_check_against_the_api_can_fail(objects):
    odd = of(objects, "Deployment")["trainer"]
    odd["spec"]["replica"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(odd, kubernetes_validate.latest_version(), strict=True)


def test_budgets_and_scaling_are_of_what_is_there(objects, config):
    assert set(of(objects, "PodDisruptionBudget")) == {"shard", "replica", "joiner"}
    scalers = of(objects, "HorizontalPodAutoscaler")
    assert set(scalers) == {"replica", "joiner"}
    for name, scaler in scalers.items():
        assert scaler["spec"]["scaleTargetRef"]["name"] == name in of(objects, "Deployment")
        assert scaler["spec"]["minReplicas"] == of(objects, "Deployment")[name]["spec"]["replicas"]
    joiner = scalers["joiner"]["spec"]
    assert joiner["maxReplicas"] == config.kafka.topics.feature_logs.partitions
    assert joiner["metrics"][0]["external"]["metric"]["name"] == "joiner_unread_messages"
    assert scalers["replica"]["spec"]["metrics"][0]["resource"]["name"] == "cpu"


def test_pods_log_for_what_collects_logs(objects):
    for workload in workloads(objects).values():
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        assert container["env"] == [{"name": "HEADWATER_LOGS", "value": "json"}]


def test_the_configuration_is_one_that_the_roles_take(objects, config, tmp_path):
    text = of(objects, "ConfigMap")["headwater"]["data"]["config.yaml"]
    (tmp_path / "config.yaml").write_text(text)
    placed = load_config(tmp_path / "config.yaml")
    assert [s.host for s in placed.parameter_server.shards] == ["shard-0.shard", "shard-1.shard"]
    assert placed.tasks == config.tasks


def test_a_shard_is_the_ordinal_of_its_pod(objects, config):
    shard = of(objects, "StatefulSet")["shard"]["spec"]
    assert shard["replicas"] == len(config.parameter_server.shards)
    assert shard["serviceName"] in of(objects, "Service")
    assert '--shard "${HOSTNAME##*-}"' in shard["template"]["spec"]["containers"][0]["command"][-1]


def test_what_cannot_be_rendered_says_why(config):
    local = msgspec.structs.replace(config, kafka=msgspec.structs.replace(config.kafka, bootstrap=None))
    with pytest.raises(ConfigError, match=r"kafka\.bootstrap: unset"):
        manifests(local, "x")
    server = config.parameter_server
    first, *rest = server.shards
    odd = msgspec.structs.replace(server, shards=(msgspec.structs.replace(first, port=1), *rest))
    with pytest.raises(ConfigError, match=r"parameter_server\.shards\.port: \[1, 18001\]"):
        manifests(msgspec.structs.replace(config, parameter_server=odd), "x")
