# One file, three images: `service` (listener, api, keeper, deliver-worker; no engine, no model), `infer-cpu` (adds ONNX
# Runtime and the model; also runs everything in one container), `infer-gpu` (the CUDA build of it; its base is an argument).
# Every package is installed from a lock with hashes; /opt/casework/sbom.cdx.json lists what is inside (CycloneDX).
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG GPU_IMAGE=${PYTHON_IMAGE}

FROM ${PYTHON_IMAGE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY deploy/requirements-build.lock deploy/prune.sh ./
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils && rm -rf /var/lib/apt/lists/* \
 && pip install -q --require-hashes -r requirements-build.lock

FROM tools AS service-packages
RUN python -m venv --without-pip /opt/casework
COPY requirements-service.lock ./
RUN pip --python /opt/casework/bin/python install -q --require-hashes -r requirements-service.lock && sh prune.sh /opt/casework
COPY pyproject.toml README.md ./
COPY service service
RUN pip wheel -q --no-deps --no-build-isolation -w /tmp/wheel . \
 && pip --python /opt/casework/bin/python install -q --no-deps /tmp/wheel/*.whl \
 && cyclonedx-py environment --output-reproducible --mc-type application --pyproject pyproject.toml \
      -o /opt/casework/sbom.cdx.json /opt/casework/bin/python

FROM service-packages AS cpu-packages
COPY requirements.lock ./
RUN pip --python /opt/casework/bin/python install -q --require-hashes -r requirements.lock && sh prune.sh /opt/casework \
 && cyclonedx-py environment --output-reproducible --mc-type application --pyproject pyproject.toml \
      -o /opt/casework/sbom.cdx.json /opt/casework/bin/python

FROM service-packages AS gpu-packages
COPY requirements-gpu.lock ./
RUN pip --python /opt/casework/bin/python install -q --require-hashes -r requirements-gpu.lock \
 && cyclonedx-py environment --output-reproducible --mc-type application --pyproject pyproject.toml \
      -o /opt/casework/sbom.cdx.json /opt/casework/bin/python

# The package is what its manifest lists, no more: training code and documents stay out.
FROM tools AS model
ARG MODEL=models/cman
COPY ${MODEL} /source
RUN python -c "import json, pathlib, shutil; s, t = pathlib.Path('/source'), pathlib.Path('/opt/models/cman'); \
names = ['manifest.json', *json.loads((s / 'manifest.json').read_text())['files']]; \
[((t / n).parent.mkdir(parents=True, exist_ok=True), shutil.copyfile(s / n, t / n)) for n in names]"

# GPUs run the half-precision twin (docs/adr/0017): made here from this very package, by ONNX Runtime on the builder's CPU.
FROM cpu-packages AS twin
COPY models/requirements-twin.lock ./
RUN pip --python /opt/casework/bin/python install -q --no-deps --require-hashes -r requirements-twin.lock
COPY --from=model /opt/models /opt/models
COPY models/cman/twin.py models/cman/unquantised.py models/cman/
RUN /opt/casework/bin/python -m models.cman.twin --package /opt/models/cman --out /opt/models/cman-fp16

FROM ${PYTHON_IMAGE} AS base
LABEL org.opencontainers.image.title="casework" \
      org.opencontainers.image.description="Clinical AI inference for breast imaging. Research use; not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 casework && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/casework casework \
 && install -d -o casework -g casework -m 0700 /var/lib/casework
ENV PATH=/opt/casework/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    CASEWORK_STORAGE_ROOT=/var/lib/casework CASEWORK_DOOR=api
WORKDIR /var/lib/casework
VOLUME /var/lib/casework
HEALTHCHECK --interval=10s --timeout=15s --start-period=120s --retries=3 CMD ["sh", "-c", "exec python -m casework.entrypoints.pulse \"$CASEWORK_DOOR\""]
STOPSIGNAL SIGTERM
ENTRYPOINT ["casework"]

# A read-only root can't keep bytecode, and Python's images come without that of the standard library: every start and every
# health check would compile it anew. So each image writes what its doors import.
FROM base AS service
COPY --from=service-packages /opt/casework /opt/casework
RUN PYTHONDONTWRITEBYTECODE= python -c "import celery.bin.worker, casework.entrypoints.pulse, casework.entrypoints as e, importlib; \
[importlib.import_module(f'{e.__name__}.{door}') for door in 'cli listener keeper deliver_worker fetch_worker api.door'.split()]"
USER 10001:10001
EXPOSE 11112 8000
CMD ["api"]

FROM base AS infer-cpu
COPY --from=model /opt/models /opt/models
COPY --from=cpu-packages /opt/casework /opt/casework
RUN PYTHONDONTWRITEBYTECODE= python -c "import celery.bin.worker, casework.entrypoints.pulse, casework.entrypoints as e, importlib; \
[importlib.import_module(f'{e.__name__}.{door}') for door in 'cli listener keeper deliver_worker fetch_worker api.door infer_worker'.split()]"
USER 10001:10001
ENV CASEWORK_WORK_MODEL=/opt/models/cman
# A worker checks its model before it takes work: seconds, on a host that is busy minutes.
HEALTHCHECK --interval=10s --timeout=15s --start-period=180s --retries=3 CMD ["sh", "-c", "exec python -m casework.entrypoints.pulse \"$CASEWORK_DOOR\""]
EXPOSE 11112 8000
CMD ["serve"]

# Needs a driver, and for the CUDA libraries nothing else: they come with the packages. GPU_IMAGE names a base with TensorRT.
FROM ${GPU_IMAGE} AS infer-gpu
COPY --from=base /etc/passwd /etc/group /etc/
COPY --from=base --chown=10001:10001 /var/lib/casework /var/lib/casework
COPY --from=twin /opt/models /opt/models
COPY --from=gpu-packages /opt/casework /opt/casework
ENV PATH=/opt/casework/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CASEWORK_STORAGE_ROOT=/var/lib/casework CASEWORK_WORK_MODEL=/opt/models/cman CASEWORK_DOOR=infer-worker
USER 10001:10001
VOLUME /var/lib/casework
HEALTHCHECK --interval=10s --timeout=15s --start-period=180s --retries=3 CMD ["sh", "-c", "exec python -m casework.entrypoints.pulse \"$CASEWORK_DOOR\""]
STOPSIGNAL SIGTERM
ENTRYPOINT ["casework"]
CMD ["infer-worker"]
