# GDPO-SR on an NVIDIA GPU. Build and run from the repository root:
#   docker build -t gdpo-sr .
#   docker run --gpus all --rm -u "$(id -u):$(id -g)" -v "$PWD:/data" gdpo-sr inference -i low -o restored
# Paths are those in /data, the folder that is mounted. BASE is any image with CUDA and PyTorch for
# Python 3.10 to 3.12; the torch in it stays.
ARG BASE=pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime
# hadolint ignore=DL3006
FROM ${BASE}

# OpenCV wants these
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

ENV HOME=/tmp PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/gdpo_sr
COPY setup.py pyproject.toml README.md LICENSE ./
COPY gdpo_sr ./gdpo_sr
RUN python -m pip install .
COPY options ./options
COPY datasets/example ./datasets/example

WORKDIR /data
ENTRYPOINT ["gdpo-sr"]
CMD ["--help"]
