# SPDX-License-Identifier: Apache-2.0
#
# Aliases. Everything here is one go command; nothing needs make.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test check e2e mutants conformance bench crash fuzz tools

FUZZTIME ?= 20s
ROUNDS ?= 20
BENCHTIME ?= 2s
BENCH ?= .
BENCHPKG ?= ./bench

help: ## print this list
	@grep -hE '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## (.*)/  make \1\t\2/' | expand -t 24

demo: ## the whole story on this machine, under a minute after the build
	go run ./cmd/chaperone demo

test: ## all tests; prints how many were skipped and why
	go test -json ./... | go run ./internal/tools/testreport

check: tools ## gofmt, vet, go fix, staticcheck, the laws of the house, race tests
	@unformatted=$$(gofmt -l .ci cmd e2e examples internal 2>/dev/null || true); \
	if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go fix -diff ./...
	build/bin/staticcheck ./...
	go test -count=1 ./internal
	go test -race -p 2 ./internal/...

e2e: ## the scenarios against the whole program
	go test -count=1 ./e2e/...

mutants: ## remove each guard in a copy; its test must go red for the named reason (build/mutants.json)
	go run ./internal/tools/mutants $(if $(ROW),-row $(ROW))

conformance: ## the protocol suites of others (build/conformance.json)
	@echo "The conformance run is not built yet; no figures are written." >&2; exit 1

bench: ## figures with their baselines, measured in one run (build/bench.json); BENCHPKG=./... adds every room's own
	go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -p 1 $(BENCHPKG) | go run ./internal/tools/figures -o build/bench.json

crash: ## kill -9 at every step, and ROUNDS times under load, then look at what is left (build/crash.json)
	CHAPERONE_CRASH_ROUNDS=$(ROUNDS) go test -json -count=1 -run Crash ./... | go run ./internal/tools/testreport -figures build/crash.json

fuzz: ## every fuzz target for FUZZTIME (build/fuzz.json)
	go run ./internal/tools/fuzz -time $(FUZZTIME) -o build/fuzz.json

tools:
	@mkdir -p build/bin
	@go build -C .ci/tools -o ../../build/bin/staticcheck honnef.co/go/tools/cmd/staticcheck
