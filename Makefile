# overlayd: what can be done here. `sudo make demo` and `sudo make test` install all that they need.

VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/installed
RUNTIME := $(VENV)/runtime
NATIVE := setup.py $(wildcard overlayd/datapath/native/*.[ch])
WARNINGS := -Wall -Wextra -Werror
# -fno-wrapv: Python's own flags have -fwrapv, which takes signed overflow out of the sanitizer's sight.
SANITIZE := -g -O1 -fno-omit-frame-pointer -fno-wrapv -fsanitize=address,undefined -fno-sanitize-recover=all
CROSS := -O2 -fsanitize=undefined -fno-sanitize-recover=all
NATIVE_TESTS := tests/unit/test_datapath_native.py tests/unit/test_datapath_engines.py \
	tests/unit/test_datapath_refusals.py tests/unit/test_datapath_capabilities.py tests/unit/test_datapath_handover.py
# gcc and python3-dev build the native packet engine; iperf3 measures; tcpdump is what the lab's hints look at packets with.
DEMO_PACKAGES := python3-venv gcc libc6-dev python3-dev iproute2 nftables ethtool iperf3 iputils-ping tcpdump
# iptables, tshark and curl are other people's programs that tests run beside overlayd. Tests and the lab start etcd.
PACKAGES := $(DEMO_PACKAGES) iptables tshark curl etcd-server etcd-client
# Tests alone: systemd-nspawn boots what mmdebstrap makes, the machines that the service is tested on; chromium opens the
# benchmarks' report; rsvg-convert, with a font, makes its PNG files; zsh and man read what is made for them.
TEST_PACKAGES := systemd-container mmdebstrap chromium librsvg2-bin fonts-dejavu-core zsh man-db
# What the benchmark compares with; wg recommends a kernel.
OTHERS := --no-install-recommends nebula wireguard-go wireguard-tools

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: packages $(STAMP) ## set up this clone to work in: Debian packages and a virtual environment

.PHONY: packages
packages:
	@./.ci/packages $(PACKAGES)

$(STAMP): pyproject.toml constraints.txt overlayd/__init__.py $(NATIVE)
	python3 -m venv $(VENV)
	OVERLAYD_CFLAGS="$(WARNINGS)" $(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(RUNTIME)

$(RUNTIME): pyproject.toml constraints.txt overlayd/__init__.py $(NATIVE)
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.PHONY: demo-packages
demo-packages:
	@./.ci/packages $(DEMO_PACKAGES)

.PHONY: demo
demo: demo-packages $(RUNTIME) ## see containers on two hosts talk in every mode, side by side (root)
	@$(VENV)/bin/overlayctl demo

JOBS := 2
.PHONY: test
test: setup ## run every test; those on the real kernel need root
	@./.ci/packages $(TEST_PACKAGES)
	@./.ci/packages $(OTHERS)
	$(PYTHON) -m pytest -n $(JOBS) --dist loadfile

.PHONY: test-unit
test-unit: $(STAMP) ## run the tests that need no privileges
	$(PYTHON) -m pytest tests/unit

KERNEL := linux-image-amd64
.PHONY: test-vm
test-vm: setup ## test the service on two virtual machines, emulated, with the kernel of Debian's package KERNEL (root)
	@./.ci/packages mmdebstrap systemd-container qemu-system-x86 busybox-static cpio kmod
	OVERLAYD_REQUIRE_PRIVILEGED=1 OVERLAYD_VM_KERNEL=$(KERNEL) $(PYTHON) -m pytest -v --durations=0 --durations-min=5 tests/vm

GIB := 1
.PHONY: test-transfer
test-transfer: setup ## send GIB of TCP in every case: both engines, clean wires and a bad one (root)
	OVERLAYD_TRANSFER_GIB=$(GIB) $(PYTHON) -m pytest -v --durations=0 tests/netns/test_transfer_tcp.py

.PHONY: test-sanitize
test-sanitize: $(STAMP) ## run the native engine's unit tests, and the fuzz corpus, under sanitizers
	rm -rf build/sanitize && mkdir -p build/sanitize && cp -r overlayd tests setup.py pyproject.toml README.md build/sanitize
	cd build/sanitize && rm -f overlayd/datapath/native/*.so && OVERLAYD_CFLAGS="$(WARNINGS) $(SANITIZE)" \
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
SEEDS = PYTHONPATH=tests $(PYTHON) tests/fuzz/seeds.py build/fuzz/seeds
replay = for target in $(FUZZ); do $(1) -std=gnu11 $(WARNINGS) -Ioverlayd/datapath/native tests/fuzz/$$target.c tests/fuzz/replay.c \
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
	@clang -std=gnu11 $(WARNINGS) -fsyntax-only -DPy_LIMITED_API=0x030B0000 overlayd/datapath/native/module.c \
		-I$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')
	@mkdir -p $(FUZZ:%=build/fuzz/found/%)
	@$(SEEDS)
	@for target in $(FUZZ); do $(FUZZ_CC) -Ioverlayd/datapath/native tests/fuzz/$$target.c -o build/fuzz/$$target || exit 1; done

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

# --- packages ----------------------------------------------------------------------------------------------------------

DIST := dist
# setuptools leaves files in the source tree: one build of it at a time
ALONE := flock setup.py
.PHONY: wheel
wheel: $(STAMP) ## build the source distribution, and the wheel from it, into DIST
	OVERLAYD_CFLAGS="$(WARNINGS)" $(ALONE) $(PYTHON) -m build --no-isolation --outdir $(DIST) .

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' overlayd/__init__.py)
DEB = build/deb/overlayd-$(VERSION)
.PHONY: deb
deb: setup ## build a Debian package for this release of Debian, into DIST
	@./.ci/packages debhelper lintian
	rm -rf build/deb
	$(ALONE) $(PYTHON) -m build --sdist --no-isolation --outdir build/deb .
	tar -xf $(DEB).tar.gz -C build/deb
	cp -r systemd/debian $(DEB)/debian
	printf 'overlayd (%s) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- %s  %s\n' $(VERSION) \
		"$$(sed -n 's/^Maintainer: //p' $(DEB)/debian/control)" "$$(date -R)" >$(DEB)/debian/changelog
	cd $(DEB) && dpkg-buildpackage --build=binary --no-sign
	lintian --fail-on error build/deb/overlayd_*.deb
	mkdir -p $(DIST) && cp build/deb/overlayd_*.deb $(DIST)

IMAGE := build/image
.PHONY: image
image: deb ## build a container image of the Debian package, into DIST (root)
	@./.ci/packages mmdebstrap buildah
	rm -rf $(IMAGE) && mkdir -p $(IMAGE)
	mmdebstrap --quiet --variant=minbase --include=systemd-standalone-sysusers --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --customize-hook='copy-in $(wildcard $(DIST)/overlayd_$(VERSION)_*.deb) /tmp' \
		--customize-hook='chroot "$$1" sh -c "apt-get install -y -qq --no-install-recommends /tmp/*.deb && rm /tmp/*.deb"' \
		$$(. /etc/os-release && echo $$VERSION_CODENAME) $(IMAGE)/root.tar
	buildah build --quiet --isolation=chroot --file Containerfile --tag overlayd:$(VERSION) $(IMAGE)
	rm -f $(DIST)/overlayd-$(VERSION).image.tar
	buildah push --quiet overlayd:$(VERSION) oci-archive:$(DIST)/overlayd-$(VERSION).image.tar:overlayd:$(VERSION)

# --- as a service ------------------------------------------------------------------------------------------------------

DESTDIR :=
PREFIX := /usr/local
SYSCONFDIR := /etc
SYSTEM_PYTHON := python3
BYTECODE := yes
SHARE := $(PREFIX)/lib/overlayd
ZSH := zsh/site-functions
UNITS := $(PREFIX)/lib/systemd/system
MODES := udp vxlan host-gw wireguard
# Only where the system that is installed to is the one that runs
LIVE := [ -n "$(DESTDIR)" ] || [ ! -d /run/systemd/system ] ||

.PHONY: install
install: ## install the service: a virtual environment, commands, units (root; DESTDIR=, PREFIX=/usr/local)
	$(SYSTEM_PYTHON) -m venv --clear $(DESTDIR)$(SHARE)
	$(ALONE) sh -c 'rm -rf build/lib* build/bdist* && $(DESTDIR)$(SHARE)/bin/python -m pip install --quiet \
		--disable-pip-version-check --no-compile --constraint constraints.txt ".[documents]"'
	$(DESTDIR)$(SHARE)/bin/python -BI -m overlayd.cli.documents $(DESTDIR)$(PREFIX)/share $(ZSH)
	$(DESTDIR)$(SHARE)/bin/python -m pip uninstall --quiet --yes argparse-manpage shtab pip setuptools
	# Paths of the place where it will run, not of the one where it was made
	rm -f $(DESTDIR)$(SHARE)/lib/*/site-packages/overlayd-*.dist-info/direct_url.json
	sed -i 's|$(DESTDIR)$(SHARE)|$(SHARE)|g' $$(grep -rIl '$(DESTDIR)$(SHARE)' $(DESTDIR)$(SHARE)/bin $(DESTDIR)$(SHARE)/pyvenv.cfg)
	$(if $(BYTECODE),$(DESTDIR)$(SHARE)/bin/python -m compileall -q $(if $(DESTDIR),-s $(DESTDIR) -p /) $(DESTDIR)$(SHARE)/lib)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(SYSCONFDIR)/overlayd
	ln -sf $(SHARE)/bin/overlayd $(SHARE)/bin/overlayctl $(DESTDIR)$(PREFIX)/bin/
	install -Dm644 systemd/overlayd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/overlayd.conf
	install -Dm644 systemd/overlayd.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/overlayd.conf
	for unit in overlayd@.service overlayd-cleanup.service $(MODES:%=overlayd@%.service.d/mode.conf); do \
		install -Dm644 systemd/$$unit $(DESTDIR)$(UNITS)/$$unit && \
		sed -i 's|/usr/local|$(PREFIX)|g' $(DESTDIR)$(UNITS)/$$unit || exit 1; done
	install -Dm644 -t $(DESTDIR)$(PREFIX)/share/doc/overlayd README.md CHANGELOG.md config/overlayd.yaml systemd/examples/docker.conf
	[ -e $(DESTDIR)$(SYSCONFDIR)/overlayd/overlayd.yaml ] || \
		install -m644 config/overlayd.yaml $(DESTDIR)$(SYSCONFDIR)/overlayd/overlayd.yaml
	$(LIVE) { systemd-sysusers $(PREFIX)/lib/sysusers.d/overlayd.conf && \
		systemd-tmpfiles --create $(PREFIX)/lib/tmpfiles.d/overlayd.conf && systemctl daemon-reload; }

.PHONY: uninstall
uninstall: ## remove the service and all it made; a changed configuration and /var/lib/overlayd stay (root)
	$(LIVE) systemctl disable --now $(MODES:%=overlayd@%.service)
	[ -n "$(DESTDIR)" ] || [ ! -x $(SHARE)/bin/overlayd ] || $(SHARE)/bin/overlayd --cleanup
	rm -rf $(DESTDIR)$(SHARE) $(DESTDIR)$(PREFIX)/share/doc/overlayd $(MODES:%=$(DESTDIR)$(UNITS)/overlayd@%.service.d)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/overlayd bin/overlayctl lib/sysusers.d/overlayd.conf lib/tmpfiles.d/overlayd.conf)
	rm -f $(foreach name,overlayd overlayctl,$(addprefix $(DESTDIR)$(PREFIX)/share/,man/man8/$(name).8 \
		bash-completion/completions/$(name) $(ZSH)/_$(name)))
	rm -f $(addprefix $(DESTDIR)$(UNITS)/,overlayd@.service overlayd-cleanup.service)
	! cmp -s config/overlayd.yaml $(DESTDIR)$(SYSCONFDIR)/overlayd/overlayd.yaml || rm $(DESTDIR)$(SYSCONFDIR)/overlayd/overlayd.yaml
	rmdir $(DESTDIR)$(SYSCONFDIR)/overlayd 2>/dev/null || true
	$(LIVE) systemctl daemon-reload

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

MINUTES := 10
.PHONY: soak
soak: setup ## traffic for MINUTES while things go wrong, by a seeded schedule; SEED repeats one (root)
	PYTHONPATH=tests $(PYTHON) -m support.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

.PHONY: test-image
test-image: setup ## build the container image, test it with podman, and attach a container of podman's (root)
	@./.ci/packages podman runc busybox-static
	OVERLAYD_REQUIRE_PRIVILEGED=1 $(PYTHON) -m pytest -v tests/image

NIGHTLY := test-vm soak test-transfer fuzz test-cross test-image
.PHONY: nightly
nightly: ## run every slow suite, one after the other, about an hour and a half; logs in build/nightly (root)
	@mkdir -p build/nightly; failed=0; for suite in $(NIGHTLY); do start=$$(date +%s); \
		$(MAKE) $$suite MINUTES=10 GIB=2 FUZZ_SECONDS=600 >build/nightly/$$suite.log 2>&1 && state=ok || { state=FAILED; failed=1; }; \
		printf '%-14s %-7s %5s s  build/nightly/%s.log\n' $$suite $$state $$(($$(date +%s) - start)) $$suite; done; exit $$failed

.PHONY: bench
bench: setup ## measure decisions, sockets, netlink, clusters of thousands, every data path between containers (root)
	@./.ci/packages $(OTHERS)
	$(PYTHON) benchmarks/decide.py
	$(PYTHON) benchmarks/sockets.py
	$(PYTHON) benchmarks/netlink.py
	$(PYTHON) benchmarks/leases.py
	$(VENV)/bin/overlayctl bench --output build/bench.json
	$(VENV)/bin/overlayctl bench report build/bench.json

.PHONY: bench-check
bench-check: setup ## has udp mode become slower, next to vxlan and host-gw, than the committed baseline? (root)
	$(PYTHON) benchmarks/check.py

.PHONY: clean
clean: ## remove what was built and installed here
	rm -rf $(VENV) build dist overlayd/datapath/native/*.so *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
