# Everything a person does with this project, one word each. `make` alone lists them.
CARGO ?= cargo
MINUTES ?= 10
SEEDS ?= 1024
STEPS ?= 3000
KILLS ?= 10000
STATES ?= 1000000
SETS ?= 1000000
ONLY ?=
TARGET ?= $(shell uname -m)-unknown-linux-musl

.PHONY: help run build static deb setup test test-32bit deny conformance lint fmt sim crash powercut bitrot growth fuzz \
	coverage smoke fuzzer hostile bench bench-peers measure proxies clean
help:
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

run: build ## build, and run the server with the demo page
	./target/release/fws serve --demo

build: ## the release binary: target/release/fws
	$(CARGO) build --release --locked

# Rust brings the libraries and the linker for such a binary, for other processors as well.
static: ## one binary without shared libraries, for this processor or TARGET=aarch64-unknown-linux-musl
	rustup target add $(TARGET)
	$(CARGO) build --release --locked --target $(TARGET) --config 'target.$(TARGET).linker="rust-lld"'
	@ls -l target/$(TARGET)/release/fws

deb: build ## a Debian package of the release binary, in target/deb
	scripts/deb

setup: ## install what the tests need (PHP, Node and Python packages, Chromium), if it is missing
	scripts/setup

test: setup lint ## set up everything, and run every test
	$(CARGO) test --locked
	FWS_TEST_BINARY=$(CURDIR)/target/debug/examples/delayed_journal \
		$(CARGO) test --locked --test protocol

test-32bit: setup ## the same on 32 bits (x86; needs gcc-multilib)
	rustup target add i686-unknown-linux-gnu
	$(CARGO) test --locked --target i686-unknown-linux-gnu

# cargo-deny fetches the database of advisories. Without a network, `make deny DENY=--offline` takes a
# clone of it, brought from elsewhere, at ~/.cargo/advisory-dbs/advisory-db-3157b0e258782691 (the name
# is the hash of its address; `db-path` in deny.toml says another folder). CI has none, and no
# cargo-deny: it checks all but advisories, in tests/dependencies.rs.
deny: ## licences, duplicates, sources and advisories of what others wrote (cargo-deny)
	@command -v cargo-deny >/dev/null || { echo \
		"cargo-deny is not here: cargo install cargo-deny --locked (some minutes), or" \
		"cargo test --test dependencies, which checks all but advisories" >&2; exit 1; }
	cargo-deny $(DENY) check

conformance: setup ## Autobahn's cases against the server of examples/conformance.rs
	scripts/conformance

lint: ## formatting and clippy, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

fmt: ## format the code
	$(CARGO) fmt

sim: ## simulate the whole server: SEEDS seeds (1024) of STEPS steps (3000), or one SEED again
	FWS_SIM_SEED=$(SEED) FWS_SIM_SEEDS=$(SEEDS) FWS_SIM_STEPS=$(STEPS) \
		$(CARGO) test --locked --profile sim --no-default-features --test simulate \
		-- --nocapture --test-threads 1

crash: ## kill -9 the server KILLS times (10000), and look for what it had acknowledged
	FWS_KILLS=$(KILLS) $(CARGO) test --locked --release --test store crash:: -- --nocapture

powercut: ## look at STATES (1000000) of the store's disk after power cuts
	FWS_POWERCUT_STATES=$(STATES) \
		$(CARGO) test --locked --release --test disk after_a_power_cut -- --nocapture

bitrot: ## flip every bit of a store
	FWS_BITROT=all $(CARGO) test --locked --release --test disk \
		-- --nocapture faults::every_flipped faults::damage_in_a_larger

growth: ## set SETS (1000000) short-lived states, and watch the file
	FWS_GROWTH_SETS=$(SETS) $(CARGO) test --locked --release --test store churn -- --nocapture

fuzz: fuzzer ## fuzz each target for MINUTES minutes (10)
	fuzz/run $(MINUTES)

coverage: ## lines of codecs, hub and switch that the fuzz corpus reaches; at least 95 %
	fuzz/coverage

# The fuzz targets take their seconds one after the other, on one core: the release is built beside
# them.
smoke: fuzzer ## fuzz each target for five seconds, and a small campaign, to see that they work
	$(CARGO) build --release --locked & release=$$!; \
		fuzz/run --smoke || { kill $$release; wait $$release; exit 1; }; wait $$release
	scripts/hostile --smoke

hostile: ## attack the release binary; ONLY=name,name for some of the attacks, ONLY=list to see them, ROUNDS=3 for the median of three
	scripts/hostile $(if $(filter list,$(ONLY)),--list,$(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)))

fuzzer:
	scripts/setup
	command -v cargo-fuzz >/dev/null || $(CARGO) install cargo-fuzz --version 0.13.2 --locked

bench: ## counts that must not grow, and the server beside the floor: seven minutes
	$(CARGO) bench --locked --bench counts --bench transports --bench micro
	$(CARGO) bench --locked --bench floors

bench-peers: ## our server beside others, into docs/performance.md: half an hour
	scripts/bench-peers

measure: build ## sizes, memory and system calls of the release binary, and what its store costs
	scripts/measure

proxies: build ## test nginx, HAProxy, Caddy and Apache as docs/operations.md sets them up
	scripts/proxies

clean: ## remove what was built
	$(CARGO) clean
