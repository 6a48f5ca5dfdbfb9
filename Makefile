# Everything a person does with this project, one word each. `make` alone lists them.
CARGO ?= cargo
MINUTES ?= 10
SEEDS ?= 10000

.PHONY: help run build setup test conformance lint fmt sim fuzz smoke fuzzer bench measure clean
help:
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

run: build ## build, and run the server with the demo page
	./target/release/fws serve --demo

build: ## the release binary: target/release/fws
	$(CARGO) build --release --locked

setup: ## install what the tests need (PHP, Node and Python packages, Chromium), if it is missing
	scripts/setup

test: setup lint ## set up everything, and run every test
	$(CARGO) test --locked
	FWS_TEST_BINARY=$(CURDIR)/target/debug/examples/late_journal \
		$(CARGO) test --locked --test protocol --test bugs --test pressure \
		--test chaos --test sessions

conformance: setup ## Autobahn's cases against the server of examples/conformance.rs
	scripts/conformance

lint: ## formatting and clippy, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

fmt: ## format the code
	$(CARGO) fmt

sim: ## simulate SEEDS seeds (10000) on both journals
	FWS_SIM_SEEDS=$(SEEDS) $(CARGO) test --locked --release --test simulate

fuzz: fuzzer ## fuzz each target for MINUTES minutes (10)
	fuzz/run $(MINUTES)

smoke: fuzzer ## fuzz each target for five seconds, to see that they work
	fuzz/run --smoke

fuzzer:
	scripts/setup
	command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --version 0.13.2 --locked

bench: ## micro benches, and counts of allocations and encodings
	$(CARGO) bench --locked

measure: build ## sizes, memory and system calls of the release binary
	scripts/measure

clean: ## remove what was built
	$(CARGO) clean
