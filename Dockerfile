# Everything of requirements.lock; the project itself is mounted, so an edit needs no new image.
#
#   docker build -t mmfl .
#   docker run --rm -u "$(id -u):$(id -g)" -v "$PWD:/project" mmfl snakemake --cores 4
#
# Without CUDA, several GB smaller: --build-arg TORCH_INDEX=... (docs/environments.md).
FROM python:3.11-slim-bookworm

# rasterio's wheel takes this library from the system.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libexpat1 \
    && rm -rf /var/lib/apt/lists/*

ARG TORCH_INDEX=
COPY requirements.lock /tmp/
RUN python -m pip install --no-cache-dir --root-user-action=ignore \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r /tmp/requirements.lock

# Any user may run it, also one that the image does not know: a home in /tmp and a name.
ENV HOME=/tmp USER=mmfl PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/project/src
WORKDIR /project
