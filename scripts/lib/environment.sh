# The project's Python environment: made once from the lock, found again in milliseconds. Sourced by scripts.
# Defines `root` (the repository) and `python` (the environment's interpreter). Knows no role.
#
# HEADWATER_TORCH_INDEX=<index url> takes torch, in the locked version, from that index (a CPU build, say),
# and leaves out the GPU packages that PyPI's build needs. The environment remembers it; set to nothing, it
# goes back to PyPI's build.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=$root/.venv/bin/python
uv_version=0.13.9
torch_index=${HEADWATER_TORCH_INDEX-$(cat "$root/.venv/torch-index" 2>/dev/null || true)}
gpu_packages='nvidia-.*|cuda-.*|triton'

say() { printf 'headwater: %s\n' "$*" >&2; }

fail() { say "error: $*"; exit 1; }

is_python_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in python3.11 python3; do
        if is_python_311 "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 found as python3.11 or python3 on the PATH; install it (with its venv module," \
        "python3.11-venv on Debian and Ubuntu) and run this again; other versions do not work"
}

# What the environment has to match: the lock, the package's metadata, this file, where it is, the torch index.
wanted_stamp() {
    {
        printf '%s\n' "$root" "$torch_index"
        cat "$root/requirements.lock" "$root/pyproject.toml" "$root/scripts/lib/environment.sh"
    } | sha256sum
}

is_current() {
    [[ -x $python && -f $root/.venv/stamp && $(<"$root/.venv/stamp") == "$(wanted_stamp)" ]]
}

# Runs uv, which is fetched into an environment of its own first. Call it with the lock held.
uv() {
    local venv=$root/.cache/uv-$uv_version base
    if [[ ! -f $venv/complete ]]; then
        say "fetching uv $uv_version, the installer"
        base=$(find_python)
        "$base" -m venv --clear "$venv" ||
            fail "$base -m venv failed; on Debian and Ubuntu install python3.11-venv"
        "$venv/bin/python" -m pip install --quiet "uv==$uv_version"
        touch "$venv/complete"
    fi
    VIRTUAL_ENV=$root/.venv "$venv/bin/uv" "$@"
}

# The lock without the packages whose names match $1; an entry goes on while its lines end in a backslash.
lock_without() {
    awk -v names="^($1)==" '!more { drop = $0 ~ names } { more = /\\$/ } !drop' "$root/requirements.lock"
}

install_packages() {
    printf '%s' "$torch_index" >"$root/.venv/torch-index"
    if [[ -z $torch_index ]]; then
        uv pip sync --require-hashes "$root/requirements.lock"
        return
    fi
    local torch filtered=$root/.cache/requirements.without-torch
    torch=$(grep -oE '^torch==[^ ;]+' "$root/requirements.lock")
    lock_without "torch|$gpu_packages" >"$filtered"
    uv pip sync --require-hashes "$filtered"
    say "installing $torch from $torch_index"
    uv pip install --no-deps --index-url "$torch_index" "$torch"
}

make_environment() {
    local base
    say "setting up $root/.venv from requirements.lock (some GB and a minute or two the first time)"
    if ! is_python_311 "$python"; then
        base=$(find_python)
        "$base" -m venv --without-pip --clear "$root/.venv"
    fi
    install_packages
    uv pip install --no-deps --no-build-isolation --editable "$root"
    wanted_stamp >"$root/.venv/stamp"
    say "the environment is ready"
}

# One script at a time sets up; the lock is free again when the script ends, or at release_lock.
hold_lock() {
    mkdir -p "$root/.cache"
    exec 9>"$root/.cache/environment.lock"
    if ! flock --nonblock 9; then
        say "waiting for another script that sets up the environment"
        flock 9
    fi
}

release_lock() { exec 9>&-; }

ensure_environment() {
    if is_current; then return; fi
    hold_lock
    # not `is_current || make_environment`, in which a failing command would not end the script
    if ! is_current; then make_environment; fi
    release_lock
}
