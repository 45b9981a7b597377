# `make lab` opens the course, `make test` proves it. Everything is installed into .venv, once.
# Another Python: make lab PYTHON=python3.12. More arguments: make run ARGS="01 --save".
# The folder may be moved or copied afterwards: nothing in it that is used here knows where it is.
PYTHON ?= python3
RUN := .venv/bin/python
INSTALLED := .venv/.installed
# Tests run in two processes of one thread each: on two cores that takes half as long as one.
JOBS ?= 2

.PHONY: lab test update run lint

lab: $(INSTALLED)
	$(RUN) -m course_utils.cli lab $(ARGS)

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests notebooks --nbval-lax --nbval-current-env -n $(JOBS) --dist loadfile $(ARGS)

update: $(INSTALLED)
	$(RUN) -m course_utils.cli update $(ARGS)

run: $(INSTALLED)
	$(RUN) -m course_utils.cli run $(ARGS)

lint: $(INSTALLED)
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "The course needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name another one: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e ".[lab,trl,test]"
	@$(RUN) -c 'import os, pathlib, sysconfig; site = pathlib.Path(sysconfig.get_path("purelib")); [link.write_text(os.path.relpath(".", site) + "\n") for link in site.glob("*course_utils.pth")]'
	@touch $@
