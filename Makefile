# Chancery needs Go (1.21 or later: the toolchain named in go.mod is fetched),
# git and make. Nothing else is needed to build, run and test; what some tests
# run against besides is skipped when it is missing, and says so.

# A distribution's Go may be older than go.mod asks for and pinned to itself.
export GOTOOLCHAIN = auto
export CGO_ENABLED = 0

# Key stores that are not in the plain program: pkcs11 (needs a C compiler),
# awskms, azurekms. make build TAGS="pkcs11 awskms"
TAGS     ?=
BIN      := bin/chancery
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS  := -s -w -X main.version=$(VERSION) -X main.revision=$(REVISION)

# The race detector needs a C compiler; without one the same tests run plain.
RACE     ?= $(shell command -v gcc >/dev/null 2>&1 && echo -race)
# Packages whose work is SQLite in pure Go, which is ten times slower under
# the race detector than it is worth: they run plain here, and their races are
# looked for on PostgreSQL. The bus starts whole NATS clusters in the process,
# whose own races are not ours to find. Renewal is raced without its simulated
# year. What app puts together is raced package by package. One pattern per word,
# relative to internal/. What is packaged has no goroutines, and half of
# Kubernetes to compile.
NORACE   ?= e2e app bench house bus inventory renew ctwatch scan/source
TIMEOUT  ?= 15m
STORES   := pkcs11 awskms azurekms

empty :=
space := $(empty) $(empty)
norace_re := /(packaging|internal/($(subst $(space),|,$(strip $(NORACE)))))(/|$$)

.PHONY: help build dev test test-pkcs11 lint ui bench bench-record bench-page deb release clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the program as bin/chancery (static, unless TAGS has pkcs11)
	CGO_ENABLED=$(if $(filter pkcs11,$(TAGS)),1,0) go build -trimpath -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/chancery

dev: build ## build and run everything on this machine
	$(BIN) dev

lint: ## formatting, vet and the conventions of the house
	@unformatted=$$(gofmt -l cmd internal packaging); test -z "$$unformatted" || { echo "gofmt these: $$unformatted"; exit 1; }
	go vet ./...
	go test ./internal/house

test: ## all tests, with the race detector where it pays
	go vet ./...
	CGO_ENABLED=$(if $(RACE),1,0) go test $(RACE) -p 3 -timeout $(TIMEOUT) $$(go list ./... | grep -Ev '$(norace_re)')
	@set -e; plain=$$(go list ./... | grep -E '$(norace_re)') || true; \
	if [ -n "$$plain" ]; then echo "go test $$plain"; go test -timeout $(TIMEOUT) $$plain; fi
	CGO_ENABLED=$(if $(RACE),1,0) go test $(RACE) -short -timeout $(TIMEOUT) ./internal/renew
	go test -tags faultpoint -run Crash -timeout $(TIMEOUT) ./internal/acme/server ./internal/deploy/... ./internal/renew

test-pkcs11: ## the key stores behind build tags: SoftHSM (softhsm2, gcc) and the cloud services
	CGO_ENABLED=1 go vet -tags '$(STORES)' ./internal/keys/... ./internal/app ./cmd/chancery
	CGO_ENABLED=1 go test -race -tags '$(STORES)' -timeout $(TIMEOUT) ./internal/keys/...
	CGO_ENABLED=1 go test -tags '$(STORES)' -run 'Key|Store|AWS|Azure' -timeout $(TIMEOUT) ./internal/app

ui: ## rebuild web/dist and the other generated files
	go generate ./...

bench: ## short benchmarks of the hot paths
	go test -run '^$$' -bench . -benchmem -benchtime 200ms ./...

bench-record: build ## measure everything that docs/performance.md shows (an hour)
	docs/performance/record.sh
	@$(MAKE) --no-print-directory bench-page

bench-page: build ## make docs/performance.md of the result files
	@cd docs/performance && profile=; test ! -s profile.txt || profile='--profile profile.txt'; \
	../../$(BIN) bench report --page --costs costs.md $$profile *.jsonl >../performance.md

deb: build ## the Debian package in dist/, for this machine
	packaging/debian/build.sh $(BIN) $(BIN) '$(VERSION)' $$(go env GOARCH) dist/chancery_$(VERSION)_$$(go env GOARCH).deb

release: build ## static programs for every platform and Debian packages in dist/, with checksums
	@rm -rf dist && mkdir -p dist
	@set -e; for platform in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64; do \
		out=dist/chancery-$(VERSION)-$$(echo $$platform | tr / -); echo "$$out"; \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} go build -trimpath -ldflags '$(LDFLAGS)' -o $$out ./cmd/chancery; \
	done
	@set -e; for arch in amd64 arm64; do \
		packaging/debian/build.sh dist/chancery-$(VERSION)-linux-$$arch $(BIN) '$(VERSION)' $$arch dist/chancery_$(VERSION)_$$arch.deb; \
	done
	@cd dist && sha256sum * > SHA256SUMS

clean: ## delete what was built
	rm -rf bin dist
