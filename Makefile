# overlayd: what can be done here. `sudo make demo` and `sudo make test` install all that they need.

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/installed
NATIVE := setup.py $(wildcard overlayd/datapath/native*.[ch])
WARNINGS := -Wall -Wextra -Werror
SANITIZE := -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
# iperf3 and tshark measure and look; iptables and curl are other people's programs that tests run beside overlayd.
# gcc and python3-dev build the native packet engine. Tests and the lab start etcd for themselves.
PACKAGES := python3-venv gcc libc6-dev python3-dev iproute2 nftables iptables ethtool iperf3 iputils-ping tshark curl \
	etcd-server etcd-client

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: packages $(STAMP) ## install what is needed: Debian packages and a virtual environment

.PHONY: packages
packages:
	@./.ci/packages $(PACKAGES)

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
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

.PHONY: test-sanitize
test-sanitize: $(STAMP) ## run the native engine's unit tests with address and undefined behaviour sanitizers
	rm -rf build/sanitize && mkdir -p build/sanitize && cp -r overlayd tests setup.py pyproject.toml build/sanitize
	cd build/sanitize && rm -f overlayd/datapath/*.so && CFLAGS="$(WARNINGS) $(SANITIZE)" LDFLAGS="$(SANITIZE)" \
		$(CURDIR)/$(PYTHON) setup.py --quiet build_ext --inplace
	cd build/sanitize && PYTHONPATH=$(CURDIR)/build/sanitize PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		$(CURDIR)/$(PYTHON) -m pytest -q tests/unit/test_datapath_native.py tests/unit/test_datapath_engines.py

FUZZ_SECONDS := 30
.PHONY: fuzz
fuzz: ## mutate packets for FUZZ_SECONDS under the sanitizers
	mkdir -p build
	gcc -std=gnu11 $(WARNINGS) $(SANITIZE) -DSTANDALONE -Ioverlayd/datapath tests/fuzz/packets.c -o build/fuzz-packets
	build/fuzz-packets $(FUZZ_SECONDS) $$(date +%s)

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
	$(PYTHON) benchmarks/datapath.py

.PHONY: clean
clean: ## remove what was built and installed here
	rm -rf $(VENV) build overlayd/datapath/*.so *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
