# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test lint bench lock clean

demo: $(INSTALLED)
	lab/demo.sh

# The tests in the lab mostly wait; the others run beside them, and are shown after them.
test: $(INSTALLED)
	@nice -n 10 $(BIN)/pytest -q -m "not e2e" >.fast-tests.log 2>&1 & fast=$$!; \
	$(BIN)/pytest -m e2e --durations=12; slow=$$?; \
	wait $$fast; fast=$$?; cat .fast-tests.log; exit $$((slow | fast))

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/ansible-lint --offline
	$(BIN)/hadolint playbooks/roles/vllm_image/files/Dockerfile

bench: $(INSTALLED)
	for file in benchmarks/[a-z]*.py; do $(BIN)/python -m benchmarks.$$(basename $$file .py) --json || exit 1; done

lock: $(INSTALLED)
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 --extra gateway --extra tracing --extra dev \
		--output-file requirements.lock pyproject.toml

clean:
	rm -rf .venv runs

$(INSTALLED): requirements.lock pyproject.toml lab/system-packages.sh
	lab/system-packages.sh
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep -om1 'uv==[0-9.]*' pyproject.toml)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
