"""Renders a configuration as Kubernetes manifests: `python -m runtime.kubernetes CONFIG [--image NAME]`.

Shards are a StatefulSet, since each is a part of the tables; the other roles are Deployments. Pure but for
`main`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
import yaml

from runtime.command import run
from runtime.logs import FORM
from schema.config import Config
from schema.config_file import load_config
from schema.errors import ConfigError

_STATE: Final = "/var/lib/headwater"
_CONFIG: Final = "/etc/headwater/config.yaml"
_DISK: Final = "20Gi"
_LAG: Final = "joiner_unread_messages"
"""What a joiner's endpoint counts; an adapter of Prometheus serves its sum as an external metric."""
_LAG_A_WORKER: Final = "20k"

Manifest = dict[str, Any]


def main(
    config: Annotated[Path, typer.Argument(help="the configuration, with kafka.bootstrap set")],
    image: Annotated[str, typer.Option(help="the image that the Dockerfile builds")] = "headwater:latest",
) -> None:
    """Print the manifests of a deployment, as YAML documents."""
    found = manifests(load_config(config), image)
    typer.echo(yaml.safe_dump_all(found, sort_keys=False), nl=False)


def manifests(config: Config, image: str) -> list[Manifest]:
    """Every object of the deployment, the configuration that its roles read among them.

    Raises:
        ConfigError: no broker is named, or shards or replicas do not share their ports.
    """
    if config.kafka.bootstrap is None:
        raise ConfigError(
            "kafka.bootstrap: unset; legal is the address of brokers: Kubernetes runs none here"
        )
    placed = _Placed(config, image)
    return [
        placed.settings(),
        *placed.shards(),
        *placed.joiners(),
        *placed.deployment("trainer", ["trainer", _CONFIG], config.trainer.ops_port),
        *placed.replicas(),
        *placed.deployment("console", ["console", _CONFIG], config.console.port),
    ]


class _Placed:
    """The objects of `config`, whose roles run `image`."""

    def __init__(self, config: Config, image: str) -> None:
        self._config = config
        self._image = image

    def settings(self) -> Manifest:
        """The configuration, with the names that things have here in the place of hosts."""
        plain = msgspec.to_builtins(self._config)
        plain |= {"run_dir": _STATE, "ops_host": "0.0.0.0"}  # noqa: S104 - a pod of its own
        for index, shard in enumerate(plain["parameter_server"]["shards"]):
            shard["host"] = f"shard-{index}.shard"
        # all replicas are pods of the first one
        first, *_ = plain["serving"]["replicas"]
        plain["serving"]["replicas"] = [first | {"host": "0.0.0.0"}]  # noqa: S104 - as above
        plain["console"]["host"] = "0.0.0.0"  # noqa: S104 - as above
        plain["console"]["hosts"] = {name: name for name in ("trainer", "joiner", "replica")}
        text = yaml.safe_dump(plain, sort_keys=False)
        return _object("v1", "ConfigMap", "headwater", data={"config.yaml": text})

    def shards(self) -> list[Manifest]:
        """A StatefulSet, whose pods take their ordinal for their shard, its headless service, its budget."""
        shards = self._config.parameter_server.shards
        port, ops = _same("parameter_server.shards", shards, "port"), _same("", shards, "ops_port")
        command = ["sh", "-c", f'exec python -m parameter_server {_CONFIG} --shard "${{HOSTNAME##*-}}"']
        spec = {
            "serviceName": "shard",
            "replicas": len(shards),
            "podManagementPolicy": "Parallel",
            **self._pods("shard", command, ops, {"rpc": port}),
            "volumeClaimTemplates": [_claim()],
        }
        stateful = _object("apps/v1", "StatefulSet", "shard", spec=spec)
        return [stateful, _service("shard", {"rpc": port, "ops": ops}, headless=True), _budget("shard")]

    def replicas(self) -> list[Manifest]:
        """A Deployment of replicas behind one service, scaled by their load."""
        replicas = self._config.serving.replicas
        port = _same("serving.replicas", replicas, "port")
        made = self.deployment("replica", ["serving", _CONFIG, "--replica", "0"], port, len(replicas))
        metric = {"type": "Resource", "resource": {"name": "cpu", "target": _target(60)}}
        return [*made, _budget("replica"), _autoscaler("replica", len(replicas), metric)]

    def joiners(self) -> list[Manifest]:
        """A Deployment of joiner workers, each a member of the group, scaled by what they have not read."""
        count = self._config.streaming.workers
        command = ["streaming", _CONFIG, "--worker", "0"]
        made = self.deployment("joiner", command, self._config.streaming.ops_port, count)
        unread = {"metric": {"name": _LAG}, "target": {"type": "AverageValue", "averageValue": _LAG_A_WORKER}}
        # more workers than partitions would have nothing to read
        most = self._config.kafka.topics.feature_logs.partitions
        metric = {"type": "External", "external": unread}
        return [*made, _budget("joiner"), _autoscaler("joiner", count, metric, most)]

    def deployment(self, name: str, module: list[str], ops: int, count: int = 1) -> list[Manifest]:
        """A Deployment of a role, and its service."""
        spec = {"replicas": count, **self._pods(name, ["python", "-m", *module], ops, {})}
        spec["template"]["spec"]["volumes"].append({"name": "state", "emptyDir": {}})
        return [_object("apps/v1", "Deployment", name, spec=spec), _service(name, {"ops": ops})]

    def _pods(self, name: str, command: list[str], ops: int, ports: dict[str, int]) -> Manifest:
        container = {
            "name": name,
            "image": self._image,
            "command": command,
            "env": [{"name": FORM, "value": "json"}],
            "ports": [{"name": n, "containerPort": p} for n, p in {**ports, "ops": ops}.items()],
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": "ops"}, "periodSeconds": 5},
            "livenessProbe": {
                "httpGet": {"path": "/healthz", "port": "ops"},
                "initialDelaySeconds": 30,
                "periodSeconds": 10,
                "failureThreshold": 6,
            },
            "resources": {"requests": {"cpu": "1", "memory": "2Gi"}},
            "volumeMounts": [
                {"name": "config", "mountPath": "/etc/headwater"},
                {"name": "state", "mountPath": _STATE},
            ],
        }
        annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": str(ops)}
        return {
            "selector": {"matchLabels": _labels(name)},
            "template": {
                "metadata": {"labels": _labels(name), "annotations": annotations},
                "spec": {
                    "terminationGracePeriodSeconds": round(self._config.launch.stop_seconds) + 5,
                    "containers": [container],
                    "volumes": [{"name": "config", "configMap": {"name": "headwater"}}],
                },
            },
        }


def _object(version: str, kind: str, name: str, **rest: Any) -> Manifest:
    metadata = {"name": name, "labels": _labels(name)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def _service(name: str, ports: dict[str, int], *, headless: bool = False) -> Manifest:
    listed = [{"name": n, "port": p, "targetPort": n} for n, p in ports.items()]
    spec: Manifest = {"selector": _labels(name), "ports": listed}
    if headless:
        spec |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return _object("v1", "Service", name, spec=spec)


def _budget(name: str) -> Manifest:
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": _labels(name)}}
    return _object("policy/v1", "PodDisruptionBudget", name, spec=spec)


def _autoscaler(name: str, least: int, metric: Manifest, most: int | None = None) -> Manifest:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    bounds = {"minReplicas": least, "maxReplicas": max(least, 4 * least if most is None else most)}
    spec = {"scaleTargetRef": target, **bounds, "metrics": [metric]}
    return _object("autoscaling/v2", "HorizontalPodAutoscaler", name, spec=spec)


def _claim() -> Manifest:
    storage = {"requests": {"storage": _DISK}}
    return {
        "metadata": {"name": "state"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": storage},
    }


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": "headwater", "app.kubernetes.io/component": name}


def _target(percent: int) -> Manifest:
    return {"type": "Utilization", "averageUtilization": percent}


def _same(where: str, places: Any, field: str) -> int:
    ports = {getattr(place, field) for place in places}
    if len(ports) > 1:
        raise ConfigError(
            f"{where}.{field}: {sorted(ports)}; legal is one for all: each has a host of its own"
        )
    port: int = ports.pop()
    return port


if __name__ == "__main__":
    run(main)
