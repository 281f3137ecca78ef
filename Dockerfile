# scbignn-infer as a command in an image; docs/docker.md says how to use it.
#   docker build -t scbignn-infer:0.2.0 .
#   docker build -t scbignn-infer:0.2.0-gpu --build-arg DEVICE=gpu .
# BASE may name the base image by its digest: packaging/image.sh.

ARG BASE=python:3.12-slim-trixie

FROM $BASE AS build
ARG DEVICE=cpu
ENV PATH=/opt/scbignn/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    NUMBA_CPU_NAME=generic \
    NUMBA_CACHE_DIR=/opt/numba
WORKDIR /build
RUN python -m venv --without-pip /opt/scbignn

# The package asks for onnxruntime-gpu. Here it comes with its CUDA, or plain onnxruntime instead,
# never both: what else is required is installed beside one of them, then the package alone.
COPY pyproject.toml ./
RUN python -c "import tomllib; \
    project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    needs = project['dependencies']; \
    plain = [need.split(';')[0] for need in needs if need.startswith('onnxruntime>')]; \
    gpu = project['optional-dependencies']['cuda']; \
    print(*(need for need in needs if not need.startswith('onnxruntime')), sep='\n'); \
    print(*{'cpu': plain, 'gpu': gpu}['$DEVICE'], sep='\n')" > requirements.txt \
    && pip --python /opt/scbignn/bin/python install --no-cache-dir -r requirements.txt
COPY LICENSE README.md ./
COPY packaging/readme.py packaging/readme.py
COPY exported_models exported_models
COPY scbignn_infer scbignn_infer
COPY training/scbignn_training training/scbignn_training

# pynndescent is compiled for any processor of this architecture. numba reads no cache that it
# cannot write to, so each process gets a copy of its own, in /tmp.
RUN pip --python /opt/scbignn/bin/python install --no-cache-dir --no-deps . \
    && scbignn-infer doctor \
    && python -c "import numpy as np; \
    from scbignn_infer.network.neighbors import build_graph; \
    from scbignn_infer.network.sessions import Runtime; \
    points = np.random.default_rng(0).standard_normal((10_000, 64), np.float32); \
    build_graph(points, 15, runtime=Runtime('cpu', 0, 2), exact_max_cells=0)" \
    && printf '%s\n' \
    'from functools import cache' \
    'from os.path import basename, isdir, join' \
    'from shutil import copytree' \
    'from tempfile import TemporaryDirectory' \
    '' \
    'from numba.core.caching import UserProvidedCacheLocator' \
    '' \
    'FOLDER = TemporaryDirectory(prefix="numba-")' \
    '' \
    '@cache' \
    'def copy(path):' \
    '    own = join(FOLDER.name, basename(path))' \
    '    return copytree(path, own) if isdir(path) else own' \
    '' \
    'class CopiedCache(UserProvidedCacheLocator):' \
    '    def get_cache_path(self):' \
    '        return copy(self._cache_path)' \
    > /opt/scbignn/lib/python3.12/site-packages/copied_cache.py \
    && NUMBA_CACHE_LOCATOR_CLASSES=copied_cache.CopiedCache python -c "import pynndescent"

FROM $BASE
# Workflow engines run commands of their own in the image: it has no entry point, and ps, by which
# Nextflow measures them. A pinned version would stop the build when Debian replaces it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends procps \
    && rm -rf /var/lib/apt/lists/*
LABEL org.opencontainers.image.title="scbignn-infer" \
      org.opencontainers.image.description="Cell types for single-cell RNA-seq" \
      org.opencontainers.image.licenses="BSD-3-Clause" \
      org.opencontainers.image.base.name="docker.io/library/python:3.12-slim-trixie"
COPY --from=build /opt /opt
ENV PATH=/opt/scbignn/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    NUMBA_CPU_NAME=generic \
    NUMBA_CACHE_DIR=/opt/numba \
    NUMBA_CACHE_LOCATOR_CLASSES=copied_cache.CopiedCache
WORKDIR /data
USER 10001:10001
CMD ["scbignn-infer", "--help"]
