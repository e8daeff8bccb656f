# `make` alone explains itself. Everything here is an ordinary cargo command that can be typed by hand.

TARGET ?=
OPTIONS ?=
ARGS ?=
BENCH ?= throughput

.PHONY: help run test conversations bench lint fmt clean

help: ## list the targets (this is the default)
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build for speed and serve on 127.0.0.1:11211; ARGS="-vv -m 256" passes flags
	cargo run --release --quiet -- $(ARGS)

test: ## run every test, and name those that were passed over, and why
	@export PASSED_OVER=$$(mktemp); \
	cargo test --quiet; status=$$?; \
	echo "passed over: $$(wc -l < "$$PASSED_OVER")"; \
	sort "$$PASSED_OVER" | sed 's/^/  /'; \
	rm -f "$$PASSED_OVER"; \
	exit $$status

conversations: ## play tests/conversations; TARGET=host:port holds another server to them, OPTIONS="-M" names its flags
	TARGET='$(TARGET)' OPTIONS='$(OPTIONS)' cargo test --quiet --test conversations -- --nocapture

bench: ## BENCH=throughput (or memory, hits; log) beside memcached (or redis) if it is there; fails out of bounds; ARGS=--help
	cargo bench --bench $(BENCH) -- $(ARGS)

lint: ## formatting, clippy and documentation, with warnings as errors
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps --document-private-items

fmt: ## format the code
	cargo fmt

clean: ## remove what was built
	cargo clean
