# The server in a container:  docker build -t ferkit .  &&  docker compose up
# Two stages, so that the image holds no compiler, no sources and no package index.

FROM python:3.12-slim AS build
# Weights that the image has besides the network that comes along; empty to fetch nothing.
ARG WEIGHTS=yunet
WORKDIR /src
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
COPY ferkit ferkit
RUN python -m venv /opt/ferkit \
 && /opt/ferkit/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt ".[serve,video]" \
 && /opt/ferkit/bin/python -c "import cv2, ferkit.serving.app" \
 && mkdir -p /opt/ferkit/weights \
 && for name in $WEIGHTS; do FER_WEIGHTS_DIR=/opt/ferkit/weights /opt/ferkit/bin/fer models fetch "$name"; done

FROM python:3.12-slim
# fonts-nanum: Korean names in images.
RUN apt-get update \
 && apt-get install -y --no-install-recommends fonts-nanum \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --home-dir /tmp ferkit \
 && mkdir /models
COPY --from=build /opt/ferkit /opt/ferkit
ENV PATH=/opt/ferkit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_NUM_THREADS=1 \
    MALLOC_ARENA_MAX=2 \
    FER_SERVE_HOST=0.0.0.0 \
    FER_SERVE_PORT=8000 \
    FER_SERVE_MODELS_DIR=/models \
    FER_WEIGHTS_DIR=/opt/ferkit/weights \
    FER_OFFLINE=1
USER ferkit
# All that it writes is temporary: the one folder that must be writable where the rest is not.
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['FER_SERVE_PORT'] + '/health', timeout=4)"]
# 0.0.0.0 can be reached from outside: without FER_SERVE_TOKEN the server does not start, and says so.
ENTRYPOINT ["fer"]
CMD ["serve"]
