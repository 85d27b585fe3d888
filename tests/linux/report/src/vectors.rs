// SPDX-License-Identifier: MIT OR Apache-2.0
//! The vector lengths that a program may choose, and what it may choose of speculation.

use core::fmt::Write;
use linux_program::println;
use linux_program::text::Text;

use crate::sys::{self, Errno};

/// prctl operations (include/uapi/linux/prctl.h).
const PR_SVE_SET_VL: u64 = 50;
const PR_GET_SPECULATION_CTRL: u64 = 52;
const PR_SME_SET_VL: u64 = 63;

/// Bytes of a vector at least, and at most.
const SHORTEST: u64 = 16;
const LONGEST: u64 = 256;
/// The length in what PR_SVE_SET_VL returns.
const LENGTH: u64 = 0xffff;

/// Prints both.
pub fn print() {
    lengths("SVE", PR_SVE_SET_VL);
    lengths("SME", PR_SME_SET_VL);
    for (name, which) in [("store bypass", 0), ("indirect branch", 1), ("L1D flush", 2)] {
        match sys::control(PR_GET_SPECULATION_CTRL, which) {
            Ok(state) => println!("# speculation: {name} {state:#x}"),
            Err(Errno(error)) => println!("# speculation: {name} error {error}"),
        }
    }
}

/// Prints the lengths that can be set: asked for another, the kernel sets the next shorter one.
fn lengths(name: &str, operation: u64) {
    let mut text = Text::new(format_args!("# vectors: {name}, bytes:"));
    for length in (SHORTEST..=LONGEST).step_by(SHORTEST as usize) {
        // What does not fit is cut off.
        let _ = match sys::control(operation, length) {
            Ok(set) if set & LENGTH == length => write!(text, " {length}"),
            Ok(_) => Ok(()),
            Err(Errno(error)) if length == SHORTEST => write!(text, " error {error}"),
            Err(_) => Ok(()),
        };
    }
    println!("{text}");
    // Back to the shortest, so that what follows runs anywhere.
    let _ = sys::control(operation, SHORTEST);
}
