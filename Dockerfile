# Tokenyard with the engines of one kind of hardware: --build-arg HARDWARE=cpu (the default) or gpu.
FROM python:3.11-slim-bookworm

# Triton and vLLM compile small launchers at run time.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --home-dir /data tokenyard && install --directory --owner=tokenyard /data /huggingface

WORKDIR /app
# The packages are a layer of their own, which a change of the source leaves alone.
COPY bootstrap.py pyproject.toml README.md requirements*.* ./
ARG HARDWARE=cpu
RUN HARDWARE=$HARDWARE PIP_NO_CACHE_DIR=1 python3 bootstrap.py engines

COPY . .
ENV PATH=/app/.venv/bin:$PATH PYTHONPATH=/app HOST=0.0.0.0 DATA_DIR=/data HF_HOME=/huggingface
RUN python -m compileall -q app tasks inference migrations celeryconfig.py

USER tokenyard
EXPOSE 8005
# Alone it is a whole stack; docker-compose.yml runs each process in a container of its own.
CMD ["tokenyard", "up"]
