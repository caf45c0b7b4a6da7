# overlayd: what can be done here. `sudo make demo` and `sudo make test` install all that they need.

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/installed
# iperf3 and tshark measure and look; iptables and curl are other people's programs that tests run beside overlayd.
PACKAGES := python3-venv iproute2 nftables iptables ethtool iperf3 iputils-ping tshark curl

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: packages $(STAMP) ## install what is needed: Debian packages and a virtual environment

.PHONY: packages
packages:
	@./.ci/packages $(PACKAGES)

$(STAMP): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: demo
demo: install ## see containers on two hosts talk in all three modes, side by side (root)
	@$(VENV)/bin/overlayctl demo

.PHONY: test
test: install ## run every test; those on the real kernel need root
	$(PYTHON) -m pytest

.PHONY: test-unit
test-unit: $(STAMP) ## run the tests that need no privileges
	$(PYTHON) -m pytest tests/unit

.PHONY: lint
lint: $(STAMP) ## check style, types and the floors of the house
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

.PHONY: format
format: $(STAMP) ## put the code into its form
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

.PHONY: bench
bench: install ## measure decisions, sockets, and netlink with thousands of peers (root)
	$(PYTHON) benchmarks/decide.py
	$(PYTHON) benchmarks/sockets.py
	$(PYTHON) benchmarks/netlink.py

.PHONY: clean
clean: ## remove what was built and installed here
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
