# SPDX-License-Identifier: MIT OR Apache-2.0
# Builds Tagstash, runs it under QEMU and tests it. `make help` lists what there is to make.

TARGET := aarch64-unknown-none-softfloat
BUILD := build
LOGS := $(BUILD)/logs
PYTHON ?= python3
CARGO ?= cargo
# More options for qemu/run.py, such as ARGS='--cpus 4 --layout crossed'.
ARGS ?=
# A device-tree overlay, .dtso or .dtbo, that the image is to carry: make image OVERLAY=my.dtso
OVERLAY ?=
# The guest of `make packed` and `make uboot-disk`: Debian's kernel and the ramdisk of `make linux`, or files of one's own.
KERNEL ?= $(BUILD)/linux/Image
INITRD ?= $(BUILD)/initramfs.img
BOOTARGS ?= console=ttyAMA0 quiet
GUEST = $(if $(INITRD),--initrd '$(INITRD)') --bootargs '$(BOOTARGS)'
# Lets QEMU wait for a debugger: GDB=1, or GDB=PORT.
GDB ?=
GDB_OPTION = $(if $(GDB),--gdb $(if $(filter 1,$(GDB)),,$(GDB)))
# The suites that `make test` runs; all of them if empty.
SUITES ?=

# V=1 shows the commands.
Q := $(if $(filter 1,$(V)),,@)

# Not followed above this directory, so that sources unpacked inside somebody's repository do not take its commit.
export GIT_CEILING_DIRECTORIES := $(dir $(CURDIR))
export TAGSTASH_COMMIT := $(or $(shell git describe --always --dirty --abbrev=12 2>/dev/null),unknown)

# Each of these would silently replace what .cargo/config.toml and the lines below set.
unexport RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_TARGET CARGO_TARGET_DIR CARGO_BUILD_RUSTFLAGS TAGSTASH_BUILD

# Expanded when a recipe runs, which is after set-up has written the two files. They say how to build the core library
# where the target's own is not to be had, and are empty elsewhere.
CARGO_ENV = $(shell cat $(BUILD)/cargo.env 2>/dev/null)
CARGO_FLAGS = $(shell cat $(BUILD)/cargo.flags 2>/dev/null)
# The same bytes from any directory: cargo appends the options in this file to those of .cargo/config.toml.
PATHS := $(BUILD)/paths.toml
BARE_PATHS = $(CARGO_ENV) $(PYTHON) boot/release/crates.py $(PATHS)
BARE_FLAGS = --release --target $(TARGET) --target-dir target --config $(PATHS) $(CARGO_FLAGS)
BARE_BUILD = $(BARE_PATHS) && $(CARGO_ENV) $(CARGO) build $(BARE_FLAGS)
# The image is small and its calls are fast: the library is compiled for size, and what serves calls, which is instantiated in
# the binary, for speed. Cargo has one level for both, so the binary's is given to rustc after it.
IMAGE_BUILD = $(BARE_PATHS) && $(CARGO_ENV) CARGO_PROFILE_RELEASE_OPT_LEVEL=z $(CARGO) rustc $(BARE_FLAGS)
BARE_CLIPPY = $(CARGO_ENV) $(CARGO) clippy --target $(TARGET) --target-dir target/clippy $(CARGO_FLAGS)
# The documentation has the private items too, so links to them lead somewhere.
DOC_FLAGS := -D warnings -A rustdoc::private-intra-doc-links
DOC_TARGET ?= target
HOST_DOC = RUSTDOCFLAGS="$(DOC_FLAGS)" $(CARGO) doc --no-deps --document-private-items --target-dir $(DOC_TARGET) \
	--workspace --lib --bins --exclude harness --exclude monitor
# Cargo's remark about one file name for the firmware and its library is known and harmless: the host's run has the library.
BARE_DOC = $(CARGO_ENV) RUSTDOCFLAGS="$(DOC_FLAGS) --document-private-items" $(CARGO) rustdoc --target-dir $(DOC_TARGET) \
	--target $(TARGET) $(CARGO_FLAGS) --features firmware
BARE_OUT := target/$(TARGET)/release

.DEFAULT_GOAL := help
.PHONY: help setup build image harness machine initramfs run linux linux-costs test symbolize dist doc model protocol steps litmus mutants schedules miri fuzz throughput scale quality bench lint fmt clean distclean linux-test packed uboot-disk uboot linux-compare psci-test mte-selftest driver driver-test driver-costs demo
# Cargo uses all cores by itself, and the lines of two suites or builds mixed up help nobody.
.NOTPARALLEL:

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "V=1 shows the commands; ARGS='...' goes to the target's program (ARGS=--help); GDB=1 waits for gdb; OVERLAY=FILE goes into the image;"
	@echo "KERNEL=, INITRD=, BOOTARGS= are the guest of packed and uboot-disk; SUITES='...' picks suites (tests/suite.py --list)."

setup: ## Gets what is missing: Rust target, QEMU, device-tree compiler
	$(Q)$(PYTHON) qemu/setup.py

build: image harness ## Builds the firmware image and the test guest

image: setup ## Builds the firmware image alone
	$(Q)echo "build: $(BUILD)/tagstash.img ($(TAGSTASH_COMMIT))"
	$(Q)$(IMAGE_BUILD) -p tagstash --bin tagstash --features firmware -- -C opt-level=3
	$(Q)$(PYTHON) qemu/flatten.py $(BARE_OUT)/tagstash $(BUILD)/tagstash.img
	$(if $(OVERLAY),$(Q)$(PYTHON) boot/embed.py $(BUILD)/tagstash.img '$(OVERLAY)' -o $(BUILD)/tagstash.img)

harness: setup
	$(Q)echo "build: $(BUILD)/harness.img"
	$(Q)$(BARE_BUILD) -p harness -p monitor --bins --features harness/firmware,monitor/firmware
	$(Q)$(PYTHON) qemu/flatten.py $(BARE_OUT)/harness $(BUILD)/harness.img
	$(Q)$(PYTHON) qemu/flatten.py $(BARE_OUT)/monitor $(BUILD)/monitor.img

machine: setup ## Builds the library that aliases QEMU's tag memory
	$(Q)echo "build: $(BUILD)/libtagalias.so"
	$(Q)$(CARGO) build --release --target-dir target -p tagalias
	$(Q)cmp -s target/release/libtagalias.so $(BUILD)/libtagalias.so || cp target/release/libtagalias.so $(BUILD)/

# Without the linker script and the relocation of .cargo/config.toml, which are for images: this is a Linux program.
# In a directory of its own, because the flags differ.
initramfs: setup ## Fetches Debian's arm64 kernel, builds the Linux guest's ramdisk
	$(Q)$(PYTHON) qemu/setup.py --only linux
	$(Q)echo "build: $(BUILD)/initramfs.img"
	$(Q)RUSTFLAGS="-C relocation-model=static -C force-frame-pointers=yes -C strip=symbols" $(CARGO_ENV) $(CARGO) build \
		--release --target $(TARGET) --target-dir target/linux $(CARGO_FLAGS) -p mte-demo -p cpu-report -p kexec \
		-p filework --features mte-demo/guest,cpu-report/guest,kexec/guest,filework/guest
	$(Q)$(PYTHON) qemu/initramfs.py $(BUILD)/initramfs.img

run: build machine ## Boots the shim with the test guest and ends with a report
	$(Q)$(PYTHON) qemu/run.py --icount --kernel $(BUILD)/harness.img --bootargs mode=report \
		--expect '# report complete' --timeout 300 --log $(LOGS)/run.log $(GDB_OPTION) $(ARGS)

linux: image machine initramfs ## Boots Debian's Linux to a shell above the shim (exit, or Ctrl-A X)
	$(Q)$(PYTHON) qemu/run.py --interactive --no-semihosting --no-harness-args --cpus 2 --kernel $(BUILD)/linux/Image \
		--initrd $(BUILD)/initramfs.img --bootargs "console=ttyAMA0 quiet" $(GDB_OPTION) $(ARGS)

# Recorded runs on one CPU: minutes.
linux-costs: image machine initramfs ## Counts Linux's instructions above the shim and alone (build/linux-costs)
	$(Q)$(PYTHON) tests/linux_costs.py

# ARGS='CELL ...' runs some cells, such as ARGS='6.12-16k newest,8cpu'; ARGS=--list, ARGS=--help
linux-test: image machine initramfs ## Boots many kernels on many machines above the shim, a line for each
	$(Q)$(PYTHON) tests/linux_test.py $(ARGS)

# KERNEL=Image INITRD=initrd.img BOOTARGS='...' OVERLAY=board.dtso; INITRD= for none. `initramfs` is what makes the defaults.
packed: image $(if $(filter $(BUILD)/linux/Image,$(KERNEL)),initramfs) ## Packs shim and guest into one bootable file (build/packed.img)
	$(Q)$(PYTHON) boot/pack.py '$(KERNEL)' $(GUEST) -o $(BUILD)/packed.img

uboot-disk: image $(if $(filter $(BUILD)/linux/Image,$(KERNEL)),initramfs) ## Makes a disk that U-Boot boots from (build/uboot-disk.img)
	$(Q)$(PYTHON) qemu/setup.py --only u-boot
	$(Q)$(if $(OVERLAY),cp $(BUILD)/tagstash.img,$(PYTHON) boot/embed.py $(BUILD)/tagstash.img boot/qemu-virt.dtso -o) $(BUILD)/uboot.img
	$(Q)$(PYTHON) boot/disk.py --image $(BUILD)/uboot.img --kernel '$(KERNEL)' $(GUEST) -o $(BUILD)/uboot-disk.img

uboot: uboot-disk machine ## Boots that disk by U-Boot, Linux's shell at the end (exit, or Ctrl-A X)
	$(Q)$(PYTHON) qemu/run.py --interactive --no-semihosting --cpus 2 --uboot --disk $(BUILD)/uboot-disk.img $(GDB_OPTION) $(ARGS)

# ARGS='--cell newest/max', ARGS=--list, ARGS=--help. What cannot be fetched is a cell that is skipped, and named.
linux-compare: build machine initramfs ## Compares what Linux sees with the shim and without it: all CPUs, kernels, QEMUs
	-$(Q)$(PYTHON) qemu/setup.py --only qemu-newest
	$(Q)$(PYTHON) tests/compare.py $(ARGS)

# ARGS goes to tests/mte.py: make mte-selftest ARGS='--cell neoverse-n2,2,one --only check_prctl'
mte-selftest: image machine initramfs ## Memory tagging above the shim and without it: own checks, the kernel's selftests
	$(Q)$(PYTHON) qemu/setup.py --only cross --only selftests
	$(Q)$(PYTHON) tests/mte.py demo selftests $(ARGS)

test: setup ## Runs every suite; the last line counts them
	$(Q)$(PYTHON) tests/suite.py $(SUITES)

psci-test: image machine initramfs ## Idle states, hotplug, suspend, kexec and kdump with Linux, 2 and 8 CPUs (minutes)
	$(Q)$(PYTHON) tests/psci.py all $(ARGS)

# ARGS='6.1 --strict', ARGS=--help. The first time, set-up gets kernels and headers, and builds the kernel that no distribution has (ten
# minutes), unless CLEANCACHE_KERNEL names a directory that has one.
driver: setup ## Builds the Linux driver's modules for every kernel that can be had (build/driver)
	$(Q)$(PYTHON) qemu/driver.py $(ARGS)

# Parts of it: python3 tests/filework.py all --only kexec, tests/driver_test.py --help. Hours on a busy machine.
driver-test: image machine initramfs ## Linux with the driver, on all kernels: tags, a million verified file operations, hotplug, reload, kexec, hibernation
	$(Q)status=0; $(PYTHON) tests/driver_test.py all || status=1; $(PYTHON) tests/filework.py all || status=1; exit $$status

# Recorded runs on one CPU that counts instructions: minutes.
driver-costs: image machine initramfs ## Counts what the driver costs Linux, and the disk reads that it saves (build/driver-costs)
	$(Q)$(PYTHON) tests/driver_costs.py

# ARGS='--cpus 4'. The kernel is got as for `make driver`.
demo: image machine initramfs ## Linux keeps page cache in idle tag storage: shown on files and tags (build/demo; 2 minutes)
	$(Q)$(PYTHON) qemu/demo.py $(ARGS)

symbolize: ## Names the functions and lines of a panic in LOG=FILE (default: standard input)
	$(Q)$(CARGO) run --quiet --target-dir target -p symbolize -- $(if $(FORCE),--force) \
		"$(or $(ELF),$(BARE_OUT)/tagstash)" $(if $(LOG),"$(LOG)")

# FORCE=1 packs sources that are changed.
dist: image ## Packs image, symbols, documents and licences into build/dist
	$(Q)FORCE="$(FORCE)" $(CARGO_ENV) $(PYTHON) boot/release/dist.py

doc: setup ## Makes the sources' documentation, host and firmware (target/doc)
	$(Q)$(HOST_DOC)
	$(Q)$(BARE_DOC) -p tagstash --bin tagstash
	$(Q)$(BARE_DOC) -p harness --bin harness

# MODEL=list shows the cases, MODEL=test is what `make test` runs, MODEL='run put+claim' some cases, MODEL=--help the rest.
MODEL ?= run

model: ## Runs the model checker (loom) on all racing operations (MODEL=list shows them)
	$(Q)RUSTFLAGS="--cfg loom" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
		$(CARGO) test --quiet --release --test loom --target-dir target/loom -- $(MODEL)

# SECONDS= (empty) or ITERATIONS=n runs so many seeds instead; SEED=n begins there; TEST=name picks; REPLAY=file is a schedule.
schedules: ## Runs long histories under random schedules (SECONDS=n, SEED=n, TEST=name)
	$(Q)RUSTFLAGS="--cfg shuttle" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
		SCHEDULES_SECONDS="$(if $(ITERATIONS),,$(SECONDS))" SCHEDULES_ITERATIONS="$(ITERATIONS)" SCHEDULES_SEED="$(SEED)" \
		SCHEDULES_REPLAY="$(abspath $(REPLAY))" $(CARGO) test --release --test shuttle --target-dir target/shuttle -- $(TEST)

# MIRI='...' is passed to `cargo test`, such as a test's name.
miri: ## Runs the portable tests under Miri, where nightly Rust has it
	$(Q)$(PYTHON) tests/miri.py $(MIRI)

litmus: ## Runs the memory orderings as litmus shapes under Arm's model (herd7)
	$(Q)$(PYTHON) tests/litmus.py

# ARGS='--only NAME', ARGS=--list, ARGS=--help
mutants: setup ## Makes faults in a copy of the core, one at a time, and shows the check that catches each
	$(Q)$(PYTHON) tests/mutants.py $(ARGS)

# PROTOCOL='mutants no-poll' is another command of tests/protocol (PROTOCOL=--help).
PROTOCOL ?= all
TRACED_CARGO = RUSTFLAGS="--cfg traced" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 $(CARGO)

protocol: steps ## Searches the model of the frame protocol, its mutants too, in step with the code
	$(Q)target/protocol/release/protocol $(PROTOCOL)

steps:
	$(Q)$(TRACED_CARGO) test --release -p protocol --target-dir target/protocol

# SECONDS=3600 fuzzes for an hour; WHAT=trees or WHAT=calls is one of the two that share the time else; FUZZ='...' is
# another command of tests/fuzz (FUZZ=minimise, FUZZ=--help).
WHAT ?=
SECONDS ?= 60
REPLAY ?=
FUZZ ?= $(if $(REPLAY),replay $(REPLAY),run --seconds $(SECONDS))
FUZZ_TARGET = $(if $(WHAT),--target $(WHAT))

FUZZER := target/fuzz/fuzz/fuzz

fuzz: $(FUZZER) ## Fuzzes device trees and hypercalls (SECONDS=n, WHAT=trees|calls), or runs an input again (REPLAY=file)
	$(Q)$(FUZZER) $(FUZZ) $(FUZZ_TARGET)

# Cargo knows whether it has to be built again.
.PHONY: $(FUZZER)
$(FUZZER):
	$(Q)RUSTC_WRAPPER=$(CURDIR)/tests/fuzz/instrument.sh $(CARGO) build --profile fuzz -p fuzz --target-dir target/fuzz

# ARGS goes to the tool: make quality ARGS=--help
QUALITY := CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 $(CARGO) run --quiet --release -p quality --target-dir target/quality

quality: ## Measures how good a cache the stash is (build/quality: tables, plot; a minute)
	$(Q)$(QUALITY) -- $(ARGS)

# ARGS goes to tests/costs.py: make bench ARGS='calls states' makes some runs only, ARGS=--record sets the ceilings.
bench: build machine ## Counts the instructions of every hypercall, beside goals and ceilings (build/bench)
	$(Q)mkdir -p $(BUILD)/bench
	$(Q)$(TRACED_CARGO) test --quiet --release -p protocol --test stalled --target-dir target/protocol -- --nocapture \
		> $(BUILD)/bench/stalled.log || { cat $(BUILD)/bench/stalled.log; exit 1; }
	$(Q)$(PYTHON) tests/costs.py --stalled $(BUILD)/bench/stalled.log $(ARGS)

BENCH := target/throughput/bench

throughput: $(BENCH) ## Compares the stash with other caches on this machine (build/throughput)
	$(Q)$(BENCH) throughput

scale: $(BENCH) ## Counts the steps of each call, 16 MiB to 32 GiB of storage (build/scale)
	$(Q)$(BENCH) scale

.PHONY: $(BENCH)
$(BENCH):
	$(Q)$(CARGO) build --profile throughput -p bench --target-dir target

lint: setup ## Checks formatting and lints, host and firmware
	$(Q)$(CARGO) fmt --all --check
	$(Q)$(CARGO) clippy --workspace --all-targets --target-dir target/clippy -- -D warnings
	$(Q)$(BARE_CLIPPY) -p tagstash -p harness -p monitor -p mte-demo -p cpu-report -p kexec -p filework \
		--features tagstash/firmware,harness/firmware,monitor/firmware,mte-demo/guest,cpu-report/guest,kexec/guest,filework/guest \
		-- -D warnings

fmt: ## Formats the sources
	$(Q)$(CARGO) fmt --all

clean: ## Removes what was built, keeps what was fetched
	$(Q)rm -rf target $(BUILD)/*.img $(BUILD)/*.so $(LOGS) $(BUILD)/tagstash-*

distclean: clean ## Removes what was fetched as well
	$(Q)rm -rf $(BUILD)
