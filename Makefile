# podwright: a Kubernetes container runtime (cri-shim, cri-monitor) and a CNI plugin (bridge-ipam).
# Everything that is built for use goes to bin/, everything that only builds and tests need to .cache/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# sudo drops the directory where Go's own archive is unpacked, and users may lack those of the system's programs.
export PATH := $(PATH):/usr/local/go/bin:/usr/sbin:/sbin

GO      ?= go
PREFIX  ?= /usr/local
CNIDIR  ?= /opt/cni/bin
CACHE   := .cache
TOOLS   := $(CACHE)/tools
VERSION ?= $(shell git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//' | grep . || echo 0.1.0-devel)

# Release binaries are static and hold no path of the machine that built them.
# Plugins of NRI in WASM are left out: their interpreter is 3 MB for what nobody has.
RELEASE := CGO_ENABLED=0 $(GO) build -trimpath -tags nri_no_wasm,grpcnotrace -ldflags '-s -w -X main.version=$(VERSION)'
# Packages with tests that use no built binary.
UNITS   := ./conf/... ./cri-shim/... ./pkg/... ./plugins/...
# The race detector needs a C compiler and an architecture that it knows.
RACE    ?= $(shell [ "$$($(GO) env CGO_ENABLED)" = 1 ] && echo -race)
FUZZTIME ?= 60s
KUBERNETES  := $(CACHE)/kubernetes
KUBEVERSION  = $(shell sed -n 's|^\tk8s.io/kubernetes \(v[0-9.]*\).*|\1|p' tools/kubernetes/go.mod)
CONTROL     := kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl etcd agnhost
# What is not below k8s.io/kubernetes/cmd.
PACKAGE_etcd    := go.etcd.io/etcd/server/v3
PACKAGE_agnhost := k8s.io/kubernetes/test/images/agnhost

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: deps
deps: ## install what a fresh Debian or Ubuntu lacks (runc, nftables, …) and say what it does
	@tools/deps.sh

.PHONY: demo
demo: deps build tools ## two pods for real, a crash in the middle, nothing left behind (as root)
	@$(CACHE)/demo --bin bin --tools $(TOOLS) --registry $(CACHE)/registry

.PHONY: build
build: ## bin/cri-shim, bin/cri-monitor, bin/bridge-ipam
	@mkdir -p bin
	$(RELEASE) -o bin/ ./cmd/...

.PHONY: tools
tools: ## crictl, critest, cnitool, the reference plugins and the test programs, in .cache
	@mkdir -p $(TOOLS)
	@cd tools && GOFLAGS=-trimpath $(GO) build -o ../$(TOOLS)/ tool
	@cd tools && GOFLAGS=-trimpath $(GO) test -c -o ../$(TOOLS)/critest sigs.k8s.io/cri-tools/cmd/critest
	@CGO_ENABLED=0 $(GO) build -o $(CACHE)/ ./test/images/registry ./test/demo ./test/critest ./test/images/criset ./test/nriplugin
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(CACHE)/ ./test/images/applets

.PHONY: test
test: deps ## everything within 15 minutes: unit and root tests under the race detector, then e2e
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory test-root e2e; else \
	 $(MAKE) --no-print-directory test-unit; echo "Not root: tests that need it were skipped. The whole: sudo make test"; fi

.PHONY: test-unit
test-unit: ## unit tests; those that need root are skipped for a user
	$(GO) test $(RACE) -timeout 10m $(UNITS)

.PHONY: test-root
test-root: ## unit tests and those that need root, which may not be skipped
	CI=true $(GO) test $(RACE) -timeout 10m $(UNITS)

.PHONY: e2e
e2e: build tools newest-runc ## end-to-end tests: built binaries, crictl, cnitool (as root)
	CI=true $(GO) test -count=1 -timeout 14m ./test/e2e/...
	CI=true $(GO) test -count=1 -timeout 10m -parallel 6 ./test/cni/...

.PHONY: critest
critest: critest-parts ## the CRI conformance suite: serial, parallel, by another runtime, streams by websocket (as root)
	@$(CACHE)/critest --output $(CACHE)/critest-output $(if $(FOCUS),--focus '$(FOCUS)')

.PHONY: critest-benchmark
critest-benchmark: critest-parts ## the benchmarks of the CRI conformance suite (as root)
	@$(CACHE)/critest --lanes benchmark --output $(CACHE)/critest-output

.PHONY: critest-parts
critest-parts: build tools newest-runc
	@tools/busybox.sh $(CACHE)/debian

# What distributions have makes no ID-mapped mounts yet. Its seccomp filters are libseccomp's, which takes C.
.PHONY: newest-runc
newest-runc:
	@mkdir -p $(TOOLS)
	@tools/deps.sh runc
	@cd tools/runc && GOFLAGS=-trimpath CGO_ENABLED=1 $(GO) build -tags seccomp -o ../../$(TOOLS)/ tool

# qemu without KVM: a boot takes half a minute. What runs in the machine needs no Go, and no network.
.PHONY: vm
vm: deps critest-parts ## CMD='...' as root in a virtual machine with cgroup v2, systemd, AppArmor and CRIU (as root)
	@tools/vmimage.sh $(CACHE)/machine
	@$(GO) build -o $(CACHE)/vm ./test/vm
	@$(if $(CMD),,echo "want CMD='...'; make test-vm runs the tests"; exit 1)
	@$(CACHE)/vm $(if $(TESTS),-tests $(TESTS)) -- bash -c "$$CMD"

# Minutes to an hour, by the lane: unit-cri, unit-cni, e2e, e2e-systemd, cni, critest, critest-systemd, services, powercut.
.PHONY: test-vm
test-vm: LANES ?= services,powercut,critest,critest-systemd,unit-cri,unit-cni,cni,e2e,e2e-systemd
test-vm: deps critest-parts ## all of it in that machine, and power cuts: LANES=services,powercut,critest,... (as root)
	@tools/vmimage.sh $(CACHE)/machine
	@$(GO) build -o $(CACHE)/vm ./test/vm
	@$(CACHE)/vm -limit 60m -lanes $(LANES)

.PHONY: interop
interop: deps build tools containerd ## bridge-ipam under an unmodified containerd and beside others' firewall rules (as root)
	CI=true $(GO) test -count=1 -timeout 10m ./test/interop/...

.PHONY: lint
lint: ## gofmt, vet, golangci-lint with the reasons in .golangci.yml
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	@mkdir -p $(TOOLS)
	@cd tools/lint && $(GO) build -o ../../$(TOOLS)/ tool
	$(TOOLS)/golangci-lint run ./...

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME (60s)
	@grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u | while read -r dir; do \
	  grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$$dir"/*_test.go | sed 's/^func //' | while read -r target; do \
	    echo "== $$dir $$target"; $(GO) test "$$dir" -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME); done; done

.PHONY: containerd
containerd: ## the peer that is measured and tested beside podwright, in .cache
	@mkdir -p $(CACHE)/containerd
	@cd tools/containerd && $(GO) build -trimpath -tags no_btrfs -o ../../$(CACHE)/containerd/ tool

.PHONY: kubelet
kubelet: $(KUBERNETES)/kubelet ## a kubelet that is tested over cri-shim, in .cache: minutes, once

.PHONY: kubernetes
kubernetes: $(addprefix $(KUBERNETES)/,kubelet $(CONTROL)) ## kubelet, control plane, etcd, kubectl and agnhost, in .cache: minutes, once

$(KUBERNETES)/%: tools/kubernetes/go.mod
	@mkdir -p $(@D)
	@cd tools/kubernetes && CGO_ENABLED=0 nice -n 15 $(GO) build -trimpath -ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(KUBEVERSION)' \
	  -o ../../$@ $(or $(PACKAGE_$*),k8s.io/kubernetes/cmd/$*)
	@touch $@

.PHONY: cluster
cluster: build tools kubernetes newest-runc ## .cache/cluster up|down|nodes: a whole cluster on this machine (as root)
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(CACHE)/ ./test/images/names
	@$(GO) build -o $(CACHE)/ ./test/cluster/cluster

.PHONY: test-cluster
test-cluster: deps cluster ## a control plane and two nodes: services, rolling updates, crashes, drain (as root)
	CI=true $(GO) test -count=1 -timeout 15m -p 1 ./test/cluster/...

.PHONY: test-kubelet
test-kubelet: deps build tools kubelet newest-runc ## a real kubelet with static pods over cri-shim: probes, volumes, restarts (as root)
	CI=true $(GO) test -count=1 -timeout 10m ./test/kubelet

.PHONY: bench
bench: ## Go benchmarks of the parts
	$(GO) test -run '^$$' -bench . -benchmem $(UNITS)

.PHONY: bench-pods
bench-pods: deps build tools containerd ## pod starts, removals, memory beside containerd, with ratios (as root)
	@$(GO) run ./test/bench/pods

.PHONY: bench-cluster
bench-cluster: deps cluster containerd ## pods until they are ready and the runtime's CPU, beside containerd in one cluster (as root)
	@$(GO) run ./test/bench/cluster

.PHONY: install
install: build ## bin/ to PREFIX/bin (/usr/local/bin), bridge-ipam to CNIDIR (/opt/cni/bin)
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(CNIDIR)
	install -m 0755 bin/cri-shim bin/cri-monitor $(DESTDIR)$(PREFIX)/bin/
	install -m 0755 bin/bridge-ipam $(DESTDIR)$(CNIDIR)/

.PHONY: bench-cni
bench-cni: build tools ## bridge-ipam beside the reference plugins: ADD, DEL, load, what packets see (as root)
	@$(GO) build -o $(CACHE)/ ./test/bench/cni
	@$(CACHE)/cni -bin bin -tools $(TOOLS)

.PHONY: stress
stress: build tools ## the CNI plugin under load and kill -9, for some minutes (as root)
	PODWRIGHT_STRESS=long CI=true $(GO) test -count=1 -v -timeout 15m -run 'TestStorm|TestKills' ./test/cni

.PHONY: clean
clean: ## remove bin and .cache
	rm -rf bin $(CACHE)
