# Two commands do all set-up: `make demo` and `make test`. JAX=cuda or JAX=tpu choose the device.
JAX    ?= cpu
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= out
BIN    := $(VENV)/bin
comma  := ,
DEVICE := $(if $(filter cuda tpu,$(JAX)),$(comma)$(JAX))
# `make demo` needs less than the tests, which bring torch and diffusers as references.
DEMO   := $(VENV)/.demo-$(JAX)
TEST   := $(VENV)/.test-$(JAX)

.PHONY: demo test test-fast lint format clean

demo: $(DEMO)
	JAX_PLATFORMS=$(JAX) $(BIN)/python -m unityvideo_jax.demo --output=$(OUT)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15

test-fast: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(TEST)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(DEMO): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar=off -e ".[demo$(DEVICE)]"
	touch $@

$(TEST): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar=off -e ".[demo,test$(DEVICE)]"
	touch $@

clean:
	rm -rf $(VENV) $(OUT)
