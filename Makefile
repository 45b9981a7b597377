# `make lab` opens the course, `make test` proves it. Everything is installed into .venv, once.
# Another Python: make lab PYTHON=python3.12. More arguments: make run ARGS="01 --save".
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: lab test run lint

lab: $(INSTALLED)
	$(BIN)/course lab $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest tests notebooks --nbval-lax --nbval-current-env $(ARGS)

run: $(INSTALLED)
	$(BIN)/course run $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "The course needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[lab,test]"
	@touch $@
