# make demo   runs the main job on built-in images, end to end
# make test   runs the tests
# Needs Python 3.11+ with venv. Uses uv; where there is none, a private one is put into .uv-env.

PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .uv-env/bin/uv)

.PHONY: demo test lint faults
demo: $(UV)
	$(UV) run --no-dev sapling demo
test: $(UV)
	$(UV) run pytest -n 2 --dist loadfile
lint: $(UV)
	$(UV) run ruff check
	$(UV) run ruff format --check
	$(UV) run mypy
faults: $(UV)
	$(UV) run python tests/plant_faults.py -j 2

.uv-env/bin/uv:
	$(PYTHON) -m venv .uv-env
	.uv-env/bin/python -m pip install --quiet uv
