# overlayd: what can be done here. `sudo make demo` and `sudo make test` install all that they need.

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/installed
NATIVE := setup.py $(wildcard overlayd/datapath/native*.[ch])
WARNINGS := -Wall -Wextra -Werror
# -fno-wrapv: Python's own flags have -fwrapv, which takes signed overflow out of the sanitizer's sight.
SANITIZE := -g -O1 -fno-omit-frame-pointer -fno-wrapv -fsanitize=address,undefined -fno-sanitize-recover=all
CROSS := -O2 -fsanitize=undefined -fno-sanitize-recover=all
NATIVE_TESTS := tests/unit/test_datapath_native.py tests/unit/test_datapath_engines.py \
	tests/unit/test_datapath_refusals.py
# iperf3 and tshark measure and look; iptables and curl are other people's programs that tests run beside overlayd.
# gcc and python3-dev build the native packet engine. Tests and the lab start etcd for themselves.
PACKAGES := python3-venv gcc libc6-dev python3-dev iproute2 nftables iptables ethtool iperf3 iputils-ping tshark curl \
	etcd-server etcd-client
# chromium opens the benchmarks' report in a test; rsvg-convert, with a font, makes its PNG files.
TEST_PACKAGES := chromium librsvg2-bin fonts-dejavu-core

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
	OVERLAYD_CFLAGS="$(WARNINGS)" $(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: demo
demo: install ## see containers on two hosts talk in all three modes, side by side (root)
	@$(VENV)/bin/overlayctl demo

.PHONY: test
test: install ## run every test; those on the real kernel need root
	@./.ci/packages $(TEST_PACKAGES)
	$(PYTHON) -m pytest

.PHONY: test-unit
test-unit: $(STAMP) ## run the tests that need no privileges
	$(PYTHON) -m pytest tests/unit

GIB := 1
.PHONY: test-transfer
test-transfer: install ## send GIB of TCP in every case: both engines, clean wires and a bad one (root)
	OVERLAYD_TRANSFER_GIB=$(GIB) $(PYTHON) -m pytest -v --durations=0 tests/netns/test_transfer_tcp.py

.PHONY: test-sanitize
test-sanitize: $(STAMP) ## run the native engine's unit tests, and the fuzz corpus, under sanitizers
	rm -rf build/sanitize && mkdir -p build/sanitize && cp -r overlayd tests setup.py pyproject.toml README.md build/sanitize
	cd build/sanitize && rm -f overlayd/datapath/*.so && OVERLAYD_CFLAGS="$(WARNINGS) $(SANITIZE)" \
		$(CURDIR)/$(PYTHON) setup.py --quiet build_ext --inplace
	cd build/sanitize && PYTHONPATH=$(CURDIR)/build/sanitize PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
		$(CURDIR)/$(PYTHON) -m pytest -q $(NATIVE_TESTS)
	$(SEEDS)
	@$(call replay,gcc $(SANITIZE))

.PHONY: test-cross
test-cross: $(STAMP) ## replay the fuzz corpus on emulated machines of either byte order and word size
	@./.ci/packages qemu-user gcc-aarch64-linux-gnu gcc-arm-linux-gnueabihf gcc-s390x-linux-gnu
	$(SEEDS)
	@echo "aarch64: 64 bits, little-endian" && $(call replay,aarch64-linux-gnu-gcc $(CROSS),timeout 300 qemu-aarch64 -L /usr/aarch64-linux-gnu)
	@echo "arm: 32 bits, little-endian" && $(call replay,arm-linux-gnueabihf-gcc $(CROSS),timeout 300 qemu-arm -L /usr/arm-linux-gnueabihf)
	@echo "s390x: 64 bits, big-endian" && $(call replay,s390x-linux-gnu-gcc $(CROSS),timeout 300 qemu-s390x -L /usr/s390x-linux-gnu)

# The fuzz targets without libFuzzer, over seeds and corpus: $(call replay,compiler and its flags,emulator or nothing)
SEEDS = PYTHONPATH=tests/unit $(PYTHON) tests/fuzz/seeds.py build/fuzz/seeds
replay = for target in $(FUZZ); do $(1) -std=gnu11 $(WARNINGS) -Ioverlayd/datapath tests/fuzz/$$target.c tests/fuzz/replay.c \
	-o build/fuzz/replay-$$target && $(2) build/fuzz/replay-$$target build/fuzz/seeds/$$target/* tests/fuzz/corpus/$$target/* \
	|| exit 1; done

FUZZ_SECONDS := 300
FUZZ := $(patsubst tests/fuzz/%.c,%,$(filter-out %/replay.c,$(wildcard tests/fuzz/*.c)))
FUZZ_CC := clang -std=gnu11 $(WARNINGS) -g -O2 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
FUZZ_OPTIONS := -max_len=4096 -timeout=20 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1
.PHONY: fuzz
fuzz: $(FUZZ:%=fuzz-%) ## fuzz the packet and table functions, for FUZZ_SECONDS each

.PHONY: fuzz-build
fuzz-build: $(STAMP)
	@./.ci/packages clang libclang-rt-dev
	@clang -std=gnu11 $(WARNINGS) -fsyntax-only -DPy_LIMITED_API=0x030B0000 overlayd/datapath/native.c \
		-I$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')
	@mkdir -p $(FUZZ:%=build/fuzz/found/%)
	@$(SEEDS)
	@for target in $(FUZZ); do $(FUZZ_CC) -Ioverlayd/datapath tests/fuzz/$$target.c -o build/fuzz/$$target || exit 1; done

fuzz-%: fuzz-build # what is found goes to build/; the corpus is only read
	@echo "fuzzing $* for $(FUZZ_SECONDS) s"
	@build/fuzz/$* $(FUZZ_OPTIONS) -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/$*- build/fuzz/found/$* \
		build/fuzz/seeds/$* tests/fuzz/corpus/$* >build/fuzz/$*.log 2>&1 || { tail -n 60 build/fuzz/$*.log; \
		sed -n 's|.*written to |see it again: build/fuzz/$* |p' build/fuzz/$*.log; exit 1; }
	@grep -E '^stat::(number|average|new)' build/fuzz/$*.log

.PHONY: fuzz-merge
fuzz-merge: fuzz-build ## make the committed corpus anew: seeds, what it was and what was found, minimised
	rm -rf build/fuzz/merged
	for target in $(FUZZ); do mkdir -p build/fuzz/merged/$$target tests/fuzz/corpus/$$target && build/fuzz/$$target -set_cover_merge=1 -use_counters=0 \
		$(FUZZ_OPTIONS) build/fuzz/merged/$$target build/fuzz/seeds/$$target tests/fuzz/corpus/$$target build/fuzz/found/$$target || exit 1; done
	rm -rf tests/fuzz/corpus && cp -r build/fuzz/merged tests/fuzz/corpus

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
bench: install ## measure decisions, sockets, netlink with thousands of peers, and every way between containers (root)
	$(PYTHON) benchmarks/decide.py
	$(PYTHON) benchmarks/sockets.py
	$(PYTHON) benchmarks/netlink.py
	$(VENV)/bin/overlayctl bench --output build/bench.json
	$(VENV)/bin/overlayctl bench report build/bench.json

.PHONY: bench-check
bench-check: install ## has udp mode become slower, next to vxlan and host-gw, than the committed baseline? (root)
	$(PYTHON) benchmarks/check.py

.PHONY: clean
clean: ## remove what was built and installed here
	rm -rf $(VENV) build overlayd/datapath/*.so *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
