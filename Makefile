# Front door. `make help` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON := /usr/bin/python3
CACHE := .cache
IMAGES := $(CACHE)/images

PACKAGES := $(shell grep -v '^\#' packages.txt) $(shell cat image/host-packages.txt)

.PHONY: help deps build build-asan build-tsan images check demo bench clean distclean install

help:
	@echo 'make demo      16 desktops of 1 GB in a cgroup of 5 GB, with a picture (KEEP=1: leave them running; MORE=1: also idle, and after disk reads)'
	@echo 'make check     build, run every test'
	@echo 'make bench     all benchmarks, figures into build/bench/results.json, and a table'
	@echo 'make build     build into build/'
	@echo 'make images    build the guest images into $(IMAGES)'
	@echo 'make install   install below PREFIX (default /usr/local)'
	@echo 'make clean     remove what was built; images stay'
	@echo 'make distclean remove images and caches too'

# Installs what is missing from Debian packages; asks for root only when something is.
deps:
	@missing=$$(for p in $(PACKAGES); do \
	    dpkg-query -W -f '$${db:Status-Status}\n' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	    echo "installing: "$$missing; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    apt-get update -q >/dev/null; \
	    apt-get install -q -y --no-install-recommends $$missing >/dev/null; \
	fi

build/build.ninja: | deps
	meson setup build --prefix $${PREFIX:-/usr/local} >/dev/null

build: deps build/build.ninja
	ninja -C build --quiet

build-asan/build.ninja: | deps
	meson setup build-asan -Db_sanitize=address,undefined -Db_lundef=false >/dev/null

build-asan: deps build-asan/build.ninja
	ninja -C build-asan --quiet

# What the memory engine's threads share, under ThreadSanitizer: the rest would take too long.
build-tsan/build.ninja: | deps
	meson setup build-tsan -Db_sanitize=thread -Db_lundef=false >/dev/null

build-tsan: deps build-tsan/build.ninja
	ninja -C build-tsan --quiet tests/kernel/test-kernel-space

images: build
	for name in minimal desktop; do image/build $$name --out $(IMAGES)/$$name --cache $(CACHE)/packages; done

check: build build-asan build-tsan images
	tests/run-all

demo: build
	image/build desktop --out $(IMAGES)/desktop --cache $(CACHE)/packages
	$(PYTHON) demo/demo.py --images $(IMAGES) --out build/demo $(if $(KEEP),--keep) $(if $(MORE),--more)

bench: build images
	$(PYTHON) bench/run

install: build
	meson install -C build

clean:
	rm -rf build build-asan build-tsan

distclean: clean
	rm -rf $(CACHE)
