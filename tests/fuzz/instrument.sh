#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# Cargo's RUSTC_WRAPPER for `make fuzz`: compiles what is fuzzed with a call at every edge of its control flow
# (LLVM's SanitizerCoverage), and everything else, the fuzzer itself above all, as it is.
case " $* " in
*" --crate-name tagstash "* | *" --crate-name shim "* | *" --crate-name fdt "* | *" --crate-name dtoolkit "*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
        -Cllvm-args=-sanitizer-coverage-trace-pc-guard
    ;;
esac
exec "$@"
