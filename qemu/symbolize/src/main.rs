// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads a console log with a panic of the shim and says which functions and source lines its
//! call chain passed through, inlined ones included.
//!
//! ```text
//! symbolize [--force] ELF [LOG]        LOG: a file, or standard input if there is none
//! ```
//!
//! The image's build id, which a panic prints, has to be that of the ELF file: another build's
//! symbols would give an answer that looks right and is not.

mod log;

use addr2line::gimli::{self, EndianSlice, LittleEndian};
use log::{Panic, Place};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection, SymbolMap, SymbolMapName};
use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;

/// A reason to end, for the reader.
type Error = Box<dyn std::error::Error>;

const USAGE: &str = "usage: symbolize [--force] ELF [LOG]";

/// What the command line asks for.
struct Options {
    elf: String,
    log: Option<String>,
    /// Symbolize even if the build ids do not prove that image and ELF file belong together.
    force: bool,
}

fn options() -> Result<Options, Error> {
    let (flags, files): (Vec<String>, Vec<String>) =
        env::args().skip(1).partition(|argument| argument.starts_with("--"));
    if let Some(unknown) = flags.iter().find(|flag| *flag != "--force") {
        return Err(format!("{unknown} is not an option; {USAGE}").into());
    }
    let force = !flags.is_empty();
    match files.as_slice() {
        [elf] => Ok(Options { elf: elf.clone(), log: None, force }),
        [elf, log] => Ok(Options { elf: elf.clone(), log: Some(log.clone()), force }),
        _ => Err(USAGE.into()),
    }
}

/// The log's text. Consoles carry all kinds of bytes, so what is no UTF-8 is replaced.
fn read_log(file: Option<&str>) -> Result<String, Error> {
    let mut bytes = Vec::new();
    match file {
        Some(file) => bytes = fs::read(file).map_err(|error| format!("{file}: {error}"))?,
        None => {
            io::stdin().read_to_end(&mut bytes)?;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The firmware's ELF file.
struct Symbols<'a> {
    build_id: String,
    lines: addr2line::Context<EndianSlice<'a, LittleEndian>>,
    functions: SymbolMap<SymbolMapName<'a>>,
}

impl<'a> Symbols<'a> {
    fn read(data: &'a [u8]) -> Result<Self, Error> {
        let elf = ElfFile64::<object::LittleEndian>::parse(data)?;
        let id = elf.build_id()?.ok_or("it has no build id: it was not linked by `make build`")?;
        let section = |id: gimli::SectionId| -> Result<_, object::Error> {
            let section = elf.section_by_name(id.name());
            let bytes = section.map(|section| section.data()).transpose()?;
            Ok(EndianSlice::new(bytes.unwrap_or_default(), LittleEndian))
        };
        Ok(Symbols {
            build_id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            lines: addr2line::Context::from_dwarf(gimli::Dwarf::load(section)?)?,
            functions: elf.symbol_map(),
        })
    }

    /// The path of the function that an instruction belongs to. Labels of assembly have no length, so
    /// it is the last symbol before the instruction.
    fn function(&self, address: u64) -> Option<String> {
        let symbol = self.functions.before(address)?;
        let name = addr2line::demangle_auto(symbol.name().into(), None);
        // The hash that tells versions of a crate apart says nothing to a reader.
        let hash = name.rfind("::h").filter(|at| name.len() - at == "::h0123456789abcdef".len());
        Some(name[..hash.unwrap_or(name.len())].to_owned())
    }
}

/// Sees that the panic is that of the image that the ELF file was made into.
fn check_match(panic: &Panic, elf: &str, own: &str) -> Result<(), Error> {
    let line = panic.line;
    match panic.build_id.as_deref() {
        Some(id) if id == own => Ok(()),
        Some(id) => Err(format!(
            "the panic in line {line} is of the image with build id {id}, and {elf} has build id {own}: check out and \
             build the commit that the log's `version` line names, or name that build's ELF file with ELF=FILE"
        )
        .into()),
        None => Err(format!(
            "the panic in line {line} has no `build id` line, so nothing says that {elf} is the image's: with --force \
             (make: FORCE=1) it is taken to be"
        )
        .into()),
    }
}

/// A source file's path from the project's root, where it is one of the project's.
fn relative(file: &str) -> &str {
    file.strip_prefix("./").unwrap_or(file)
}

/// Prints one place of a chain, innermost inlined function first.
fn print_place(
    out: &mut impl Write,
    symbols: &Symbols<'_>,
    index: usize,
    place: Place,
) -> Result<(), Error> {
    // A return address belongs to the call before it.
    let probe = if place.exact { place.offset } else { place.offset.saturating_sub(1) };
    let symbol = symbols.function(probe);
    let mut frames = Vec::new();
    let mut found = symbols.lines.find_frames(probe).skip_all_loads()?;
    while let Some(frame) = found.next()? {
        let name = frame
            .function
            .as_ref()
            .and_then(|name| name.demangle().ok())
            .map(|name| name.into_owned());
        let location = frame.location.as_ref();
        let location = location.and_then(|at| Some(format!("{}:{}", relative(at.file?), at.line?)));
        frames.push((name, location));
    }
    if frames.is_empty() {
        frames.push((None, None));
    }
    let last = frames.len() - 1;
    for (depth, (name, location)) in frames.into_iter().enumerate() {
        // The debug information has bare names; the symbol table has paths, of whole functions only.
        let name = if depth == last { symbol.clone().or(name) } else { name };
        let name = name.as_deref().unwrap_or("(no symbol)");
        let head =
            if depth == 0 { format!("{index:3}  +{:#x}", place.offset) } else { String::new() };
        let inlined = if depth < last { " (inlined)" } else { "" };
        let location = location.as_deref().unwrap_or("(no line)");
        writeln!(out, "{head:18} {name}{inlined}\n{:22} {location}", "")?;
    }
    Ok(())
}

fn run() -> Result<(), Error> {
    let options = options()?;
    let elf = &options.elf;
    let data = fs::read(elf).map_err(|error| {
        format!("{elf}: {error}: `make build` makes it, ELF=FILE names another one")
    })?;
    let symbols = Symbols::read(&data)
        .map_err(|error| format!("{elf} is not the firmware's ELF file: {error}"))?;
    let text = read_log(options.log.as_deref())?;
    let panics = log::panics(&text);
    if panics.is_empty() {
        return Err("the log has no panic of the shim (a line with `tagstash: panic:`)".into());
    }
    let mut out = io::stdout().lock();
    for panic in &panics {
        if !options.force {
            check_match(panic, elf, &symbols.build_id)?;
        }
        writeln!(out, "panic: {}", panic.reason)?;
        if panic.chain.is_empty() {
            writeln!(out, "  no call chain follows it in the log")?;
        }
        for (index, place) in panic.chain.iter().enumerate() {
            print_place(&mut out, &symbols, index, *place)?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("symbolize: {error}");
            ExitCode::FAILURE
        }
    }
}
