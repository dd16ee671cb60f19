# The whole service in one image, embedded ledger and engine on the CPU. No compiler and no test tool in the result.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/casework
COPY requirements.lock ./
RUN /opt/casework/bin/pip install -q --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY service service
RUN /opt/casework/bin/pip install -q --no-deps .

FROM ${PYTHON_IMAGE} AS service
LABEL org.opencontainers.image.title="casework" \
      org.opencontainers.image.description="Clinical AI inference for breast imaging. Research use; not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --home /var/lib/casework casework \
 && install -d -o casework -g casework -m 0700 /var/lib/casework
COPY --from=build /opt/casework /opt/casework
COPY models/cman/manifest.json models/cman/*.onnx models/cman/MODEL_CARD.md /opt/models/cman/
COPY models/cman/golden /opt/models/cman/golden
ENV PATH=/opt/casework/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    CASEWORK_STORAGE_ROOT=/var/lib/casework CASEWORK_WORK_MODEL=/opt/models/cman
USER casework
VOLUME /var/lib/casework
EXPOSE 11112 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v1/health/live', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["casework"]
CMD ["serve"]
