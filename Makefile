# setup, build, test, lint, bench, demo: there is nothing else to learn.
.PHONY: help setup build test lint bench demo
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

help:
	@echo 'make setup   install what is missing (Debian packages, .venv)'
	@echo 'make build   compile; .venv/bin/python then uses this tree'
	@echo 'make test    build and run every test, C++ with sanitizers and Python'
	@echo 'make lint    formatting, static analysis, types, layers'
	@echo 'make bench   run the benchmarks (CURVES=1: the curves as well)'
	@echo 'make demo    train the example model'

setup:
	@tools/setup

build: setup
	@tools/build release

test: setup
	@tools/test

lint: setup
	@tools/setup lint
	@tools/lint

bench: build
	@tools/setup bench
	@.venv/bin/python -m bench.peers.environments
	@. tools/env && CURVES=$(CURVES) bench/run

demo: build
	@. tools/env && .venv/bin/python -m distributed_trainer.examples.flights
