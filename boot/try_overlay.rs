// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tries an overlay on a board's device tree as the shim would, without the board.
//!
//! `cargo run --release --example overlay -- board.dtb my.dtbo [out.dtb]` applies the overlay,
//! says which tag storage the shim would find, and writes the tree.

use std::process::ExitCode;
use tagstash::dtb::overlay::apply;
use tagstash::tags::binding::regions;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overlay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, overlay, out @ ..] = arguments.as_slice() else {
        return Err("two files have to be given: the board's tree and the overlay".to_string());
    };
    let read = |path: &String| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    let applied = apply(&read(base)?, &read(overlay)?, usize::MAX)
        .map_err(|error| format!("{overlay}: {error}"))?;
    println!("{} fragments applied", applied.fragments);
    for region in regions(&applied.blob).map_err(|error| error.to_string())? {
        println!("tag storage {} for memory {}", region.storage(), region.tagged());
    }
    match out {
        [] => Ok(()),
        [out] => std::fs::write(out, &applied.blob).map_err(|error| format!("{out}: {error}")),
        _ => Err("more than three files were given".to_string()),
    }
}
