// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds the panics in a console log, as `src/el2/panic.rs` of the shim prints them.

/// What precedes each line of the shim. A serial console's own time stamps may come before it.
const PREFIX: &str = "tagstash: ";

/// One address of a call chain, as an offset into the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it is.
    pub offset: u64,
    /// The instruction itself, where an exception was taken. Otherwise the address that a call
    /// returns to, which is the one after it and may belong to another line already.
    pub exact: bool,
}

/// One panic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Panic {
    /// Line of the log, from 1.
    pub line: usize,
    /// What the shim says is wrong, with the place in the source if it gives one.
    pub reason: String,
    /// The linker's hash of the image, in hexadecimal; none if the line is not in the log.
    pub build_id: Option<String>,
    /// Where the image was.
    pub base: Option<u64>,
    /// Who called whom, innermost first.
    pub chain: Vec<Place>,
    /// Instruction at which an exception was taken, as an address.
    elr: Option<u64>,
}

impl Panic {
    /// Takes what one more line says.
    fn read(&mut self, text: &str) {
        let mut words = text.split_whitespace();
        match words.next() {
            Some("at") => self.reason.push_str(&format!(" ({})", text.trim())),
            Some("build") => self.build_id = words.nth(1).map(str::to_owned),
            Some("elr") => self.elr = words.next().and_then(hexadecimal),
            Some("image") => {
                let word = words.nth(1).map(|word| word.trim_end_matches(','));
                self.base = word.and_then(hexadecimal);
            }
            Some(word) => {
                if let Some(offset) = word.strip_prefix('+').and_then(hexadecimal) {
                    let address = self.base.and_then(|base| base.checked_add(offset));
                    let exact = self.chain.is_empty() && address.is_some() && address == self.elr;
                    self.chain.push(Place { offset, exact });
                }
            }
            None => {}
        }
    }
}

/// A number as the shim prints addresses.
fn hexadecimal(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

/// All panics of a log. Lines of others in between, such as a guest's on another CPU, are passed
/// over.
pub fn panics(log: &str) -> Vec<Panic> {
    let mut found: Vec<Panic> = Vec::new();
    for (number, line) in log.lines().enumerate() {
        let Some((_, text)) = line.split_once(PREFIX) else { continue };
        if let Some(reason) = text.strip_prefix("panic: ") {
            let reason = reason.trim_end().to_owned();
            found.push(Panic { line: number + 1, reason, ..Panic::default() });
        } else if let Some(panic) = found.last_mut() {
            // What belongs to a panic is indented; anything else is the next boot.
            if text.starts_with("  ") {
                panic.read(text);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCEPTION: &str = "\
[    1.5] tagstash: panic: unexpected exception at EL2\r
tagstash:   class 0x0 esr 0x2000000 far 0x0\r
tagstash:   elr 0x40203a10 spsr 0x800003c9 sp 0x40ab4f00\r
tagstash:   x0  0000000000000000 0000000000000001 0000000000000002 0000000000000003\r
tagstash:   build id 00ff\r
tagstash:   image at 0x40200000, call chain as offsets into it:\r
# a line of the guest\r
tagstash:     +0x3a10\r
tagstash:     +0x10c5c\r
tagstash:     0x12 (not code)\r
";

    fn place(offset: u64, exact: bool) -> Place {
        Place { offset, exact }
    }

    #[test]
    fn an_exception_is_taken_at_the_instruction_itself() {
        let [panic] = &panics(EXCEPTION)[..] else { panic!("not one panic") };
        assert_eq!(panic.reason, "unexpected exception at EL2");
        assert_eq!((panic.line, panic.base), (1, Some(0x4020_0000)));
        assert_eq!(panic.build_id.as_deref(), Some("00ff"));
        assert_eq!(panic.chain, [place(0x3a10, true), place(0x10c5c, false)]);
    }

    #[test]
    fn after_a_rust_panic_all_are_return_addresses() {
        // The last exception's ELR is the guest's, even where it happens to look like ours.
        let log = "\
tagstash: panic: attempt to add with overflow
tagstash:   at src/stash/mod.rs:12:9
tagstash:   last exception: esr 0x5a000000 elr 0x40201000 far 0x0 spsr 0x3c5
tagstash:   build id 0a
tagstash:   image at 0x40200000, call chain as offsets into it:
tagstash:     +0x1000
";
        let [panic] = &panics(log)[..] else { panic!("not one panic") };
        assert_eq!(panic.reason, "attempt to add with overflow (at src/stash/mod.rs:12:9)");
        assert_eq!(panic.chain, [place(0x1000, false)]);
    }

    #[test]
    fn each_panic_keeps_its_own_lines() {
        let log =
            format!("{EXCEPTION}tagstash: version 0.1.0\ntagstash:   image at 0x0\n{EXCEPTION}");
        let found = panics(&log);
        assert_eq!(found.iter().map(|panic| panic.chain.len()).collect::<Vec<_>>(), [2, 2]);
        assert_eq!(found[1].line, 13);
    }

    #[test]
    fn a_log_without_a_panic_has_none() {
        assert_eq!(panics("tagstash: version 0.1.0\n  +0x10\n"), []);
        assert_eq!(panics("tagstash: error: no guest\ntagstash: stopped\n"), []);
    }

    #[test]
    fn what_is_garbled_is_passed_over() {
        let found =
            panics("tagstash: panic: x\ntagstash:   elr zz\ntagstash:     +0xzz\ntagstash:  \n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].chain, []);
        let overflow =
            "tagstash: panic: x\ntagstash:   image at 0xffffffffffffffff, \ntagstash:   +0x1\n";
        assert_eq!(panics(overflow)[0].chain, [place(1, false)]);
    }
}
