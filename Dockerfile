# One image for every role; the command names the role. Build with
# --build-arg HEADWATER_TORCH_INDEX=<index url> for a CPU build of torch, which is some GB smaller.
FROM python:3.11-slim

ARG HEADWATER_TORCH_INDEX=
WORKDIR /headwater
ENV PATH=/headwater/.venv/bin:$PATH OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1

COPY . .
RUN bash -c 'source scripts/lib/environment.sh && ensure_environment && rm -rf .cache ~/.cache/uv'

CMD ["python", "-m", "runtime.launch", "configs/cluster.yaml"]
