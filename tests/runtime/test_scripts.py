"""The wrapper scripts: each runs what it names, and says what is legal where it cannot."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_SCRIPTS = Path("scripts").resolve()
_WRAPPERS = [
    "backfill",
    "bench",
    "demo",
    "experiment",
    "explain",
    "kafka",
    "launch",
    "lint",
    "lock",
    "ps",
    "render-k8s",
    "replay",
    "rollback",
    "simulate",
    "soak",
    "test",
    "train",
]


def bash(command, cwd=None, **env):
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=cwd,
        env={**os.environ, **env},
    )


@pytest.fixture
def clone(tmp_path):
    """The parts of a repository that its environment depends on, with a stub for the environment's python."""
    root = tmp_path / "clone"
    shutil.copytree(_SCRIPTS, root / "scripts")
    (root / "requirements.lock").write_text("numpy==2.4.6 \\\n    --hash=sha256:00\n")
    (root / "pyproject.toml").write_text("[project]\n")
    return root


@pytest.fixture
def ready(clone):
    """A clone whose environment is set up: its python prints its arguments."""
    python = clone / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    made = bash(f"source {clone}/scripts/lib/environment.sh && wanted_stamp > {clone}/.venv/stamp")
    assert made.returncode == 0, made.stderr
    return clone


@pytest.mark.parametrize("name", _WRAPPERS)
def test_every_script_can_be_run_and_parses(name):
    assert os.access(_SCRIPTS / name, os.X_OK)
    assert bash(f"bash -n {_SCRIPTS / name}").returncode == 0


def test_no_script_is_without_a_test():
    assert sorted(path.name for path in _SCRIPTS.iterdir() if path.is_file()) == _WRAPPERS


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("demo --seconds 60", "-m demo --seconds 60"),
        ("launch configs/local.yaml --only 'a b'", "-m runtime.launch configs/local.yaml --only a b"),
        ("kafka status --data x", "-m runtime.kafka_cli status --data x"),
        ("ps why 3:9 --json", "-m parameter_server.ps why 3:9 --json"),
        ("replay --speed max", "-m simulation.replay --speed max"),
        ("simulate", "-m simulation.simulate"),
        ("explain abc", "-m serving.explain abc"),
        ("rollback configs/local.yaml --list", "-m trainer.rollback configs/local.yaml --list"),
        ("train configs/local.yaml", "-m trainer configs/local.yaml"),
        ("render-k8s configs/cluster.yaml", "-m runtime.kubernetes configs/cluster.yaml"),
        ("test --slow tests/x.py", "-m pytest --slow tests/x.py"),
    ],
)
def test_a_wrapper_hands_its_arguments_to_its_module_from_any_folder(ready, tmp_path, command, arguments):
    done = bash(f"{ready}/scripts/{command}", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{arguments}\n", "")


def test_bench_runs_the_named_benchmark(ready):
    (ready / "benchmarks").mkdir()
    (ready / "benchmarks" / "table.py").touch()
    done = bash(f"{ready}/scripts/bench table --rows 5")
    assert done.stdout == f"{ready}/benchmarks/table.py --rows 5\n"


@pytest.mark.parametrize("name", ["nope", "", "../scripts/test", "_common"])
def test_bench_refuses_an_unknown_name_with_the_legal_ones(ready, name):
    (ready / "benchmarks").mkdir()
    for each in ("table", "join", "_common"):
        (ready / "benchmarks" / f"{each}.py").touch()
    done = bash(f"{ready}/scripts/bench '{name}'")
    assert done.returncode == 1
    assert done.stderr == f"headwater: error: bench: '{name}'; legal are join table\n"


def test_bench_without_benchmarks_says_so(ready):
    assert "legal are none yet" in bash(f"{ready}/scripts/bench table").stderr


def test_without_python_311_the_error_says_what_is_needed(clone, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "cat", "sha256sum", "flock", "mkdir"):
        (tools / name).symlink_to(shutil.which(name))
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3").chmod(0o755)
    done = bash(f"{clone}/scripts/kafka status --data x", PATH=str(tools))
    assert done.returncode == 1
    assert "error: no Python 3.11 found as python3.11 or python3 on the PATH; install it" in done.stderr
    assert not (clone / ".venv" / "stamp").exists()


@pytest.mark.parametrize("changed", ["requirements.lock", "pyproject.toml", "scripts/lib/environment.sh"])
def test_the_environment_is_out_of_date_once_what_it_was_made_from_changes(ready, changed):
    check = f"source {ready}/scripts/lib/environment.sh && is_current"
    assert bash(check).returncode == 0
    with (ready / changed).open("a") as file:
        file.write("\n# changed\n")
    assert bash(check).returncode == 1


def test_the_torch_index_is_part_of_the_environment_and_is_remembered(ready):
    source = f"source {ready}/scripts/lib/environment.sh"
    assert bash(f"{source} && is_current", HEADWATER_TORCH_INDEX="https://a.example/cpu").returncode == 1
    (ready / ".venv" / "torch-index").write_text("https://a.example/cpu")
    assert bash(f"{source} && echo $torch_index").stdout == "https://a.example/cpu\n"
    assert bash(f"{source} && echo $torch_index", HEADWATER_TORCH_INDEX="").stdout == "\n"


def test_a_lock_without_gpu_packages_keeps_every_other_entry_whole(clone):
    entries = {
        name: f"{name}==1.0 \\\n    --hash=sha256:{hashlib.sha256(name.encode()).hexdigest()} \\\n    --hash=x\n"
        for name in (
            "cuda-bindings",
            "kafka-python",
            "nvidia-cublas",
            "torch",
            "torchmetrics",
            "triton",
            "typer",
        )
    }
    (clone / "requirements.lock").write_text("# made by scripts/lock\n" + "".join(entries.values()))
    done = bash(f'source {clone}/scripts/lib/environment.sh && lock_without "torch|$gpu_packages"')
    kept = "".join(entries[name] for name in ("kafka-python", "torchmetrics", "typer"))
    assert done.stdout == "# made by scripts/lock\n" + kept
