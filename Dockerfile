# The locked packages, the wheel, and a folder in which the studies run:
#   docker build -t lowrank .
#   docker run --name smoke lowrank snakemake --cores all figures --config scale=smoke
#   docker cp smoke:/home/lowrank/study/figures . && docker rm smoke
FROM python:3.12-slim AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.lock requirements-torch.lock /locks/
RUN pip install --no-deps --require-hashes -r /locks/requirements.lock -r /locks/requirements-torch.lock

FROM packages AS wheel
COPY . /source
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel /source

FROM packages
COPY --from=wheel /wheel /wheel
RUN pip install --no-deps /wheel/*.whl && useradd --create-home lowrank
USER lowrank
WORKDIR /home/lowrank
RUN lowrank init study
WORKDIR /home/lowrank/study
CMD ["snakemake", "--cores", "all", "figures"]
