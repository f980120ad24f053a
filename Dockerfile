# The locked environment and the workflow; results stay outside:
#   docker build -t tandem-defense .
#   docker run --gpus all -v "$PWD/run:/data" tandem-defense --cores 8
# The folder `run` holds a config.yaml (a copy of demo/'s, or the top-level one) and gets the results.
FROM python:3.12-slim

# Restoration on a CPU compiles its code for the processor that it runs on; jobs in Kubernetes copy files
# by rsync. Debian's archive keeps just the latest g++, so that a pinned one would soon be gone.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ rsync && rm -rf /var/lib/apt/lists/*

WORKDIR /workflow
COPY requirements-uv.lock requirements.lock ./
RUN python -m pip install --no-cache-dir --require-hashes -r requirements-uv.lock \
    && uv pip install --system --no-cache --compile-bytecode --require-hashes -r requirements.lock

COPY . .
ENV MPLBACKEND=agg PYTHONUNBUFFERED=1
ENTRYPOINT ["snakemake", "--directory", "/data"]
CMD ["--cores", "all"]
