# One image for both services; SERVICE_TYPE picks one. CUDA and cuDNN come as wheels (see requirements.txt), so the
# base needs none: a GPU host brings its driver (580 or newer) by the NVIDIA container toolkit. Without a GPU it runs
# on the CPU. infra/build_image.sh builds it with the commit in its labels.

# A tag can be moved: `make pin` appends the digest (@sha256:…) that it stands for now.
ARG PYTHON=python:3.11.14-slim-bookworm
# The pack that the image brings, and runs by default.
ARG PACK=open

FROM ${PYTHON} AS build
# Compiled here once, since the files are read-only later: otherwise every start compiles them again, for 3 s of CPU.
ENV UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/venv UV_COMPILE_BYTECODE=1
RUN pip install --no-cache-dir uv==0.13.9
# "--extra gpu --extra ray" for an image that searches large galleries on a Ray cluster, and for its nodes.
ARG EXTRAS="--extra gpu"
WORKDIR /srv
COPY pyproject.toml uv.lock ./
# hadolint ignore=SC2086
RUN uv sync --frozen --no-cache --no-default-groups ${EXTRAS}

# The open model pack is built from packages that the image itself does not need, and from models/parts, of which the
# image keeps the licences.
FROM build AS pack
RUN uv sync --frozen --no-cache --extra cpu --no-default-groups --group open-pack
COPY app app
COPY models models
ARG PACK
# "--source s3://bucket/prefix --region REGION" for weights of the model bucket, with --secret id=aws,src=FILE for
# credentials that no layer keeps; "--accept-research-licence" for packs that ask for it.
ARG PACK_OPTIONS=""
# Packs that the image does not bring are fetched at the start (MODEL_SOURCE) into the volume, the root being read-only.
# hadolint ignore=SC2086
RUN --mount=type=secret,id=aws,target=/root/.aws/credentials \
    /opt/venv/bin/python -m app.packs install ${PACK_OPTIONS} "${PACK}" \
    && rm models/parts/*.onnx \
    && for manifest in models/*.toml; do \
        weights="${manifest%.toml}"; [ -d "$weights" ] || ln -s "/var/lib/face-worker/$weights" "$weights"; \
    done

FROM ${PYTHON} AS code
WORKDIR /srv
COPY app app
COPY run_detection_service.py run_grouping_service.py ./
RUN python -m compileall -q --invalidation-mode unchecked-hash .

FROM ${PYTHON}
# With a heap for each thread, pictures decoded in one and freed in another leave holes in all of them.
ENV MALLOC_ARENA_MAX=2 HEALTH_FILE=/tmp/health.json GALLERY_INDEX_DIR=/var/lib/face-worker
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# As in app/__init__.py, for programs of the image that do not go through it, such as Ray's nodes.
ENV ORT_DISABLE_TELEMETRY=1 RAY_USAGE_STATS_ENABLED=0
RUN groupadd --gid 10001 worker \
    && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin worker \
    && install --directory --owner=10001 --group=10001 /var/lib/face-worker
VOLUME /var/lib/face-worker
WORKDIR /srv
COPY --from=build /opt/venv /opt/venv
COPY --from=pack --chown=10001:10001 /srv/models models
COPY --from=code /srv .
ARG PACK
ENV MODEL_PACK=${PACK}
USER 10001:10001
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/opt/venv/bin/python", "-m", "app.health", "--file", "/tmp/health.json", "--max-age-s", "60"]
# The worker ends by SIGTERM from its first line on only where it is not process 1: run it with --init
# (initProcessEnabled on ECS and Batch).
ENTRYPOINT ["/opt/venv/bin/python"]
CMD ["-m", "app"]
# Last, since they change with every commit and the layers above do not.
ARG COMMIT=unknown
ARG CREATED=""
ARG SOURCE=""
ARG VERSION=""
LABEL org.opencontainers.image.title="face-worker" \
      org.opencontainers.image.description="Photos of a gallery in, people out" \
      org.opencontainers.image.licenses="LicenseRef-face-worker" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}"
