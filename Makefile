# Two commands do all set-up: `make demo` and `make test`. JAX=cuda or JAX=tpu choose the device.
JAX    ?= cpu
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= out
BIN    := $(VENV)/bin
comma  := ,
EXTRAS := test,demo$(if $(filter cuda tpu,$(JAX)),$(comma)$(JAX))
STAMP  := $(VENV)/.installed-$(JAX)

.PHONY: demo test test-fast lint format clean

demo: $(STAMP)
	$(BIN)/python -m unityvideo_jax.demo --output=$(OUT)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations=15

test-fast: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --progress-bar=off -e ".[$(EXTRAS)]"
	touch $@

clean:
	rm -rf $(VENV) $(OUT)
