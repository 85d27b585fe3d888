// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boot options: words `tagstash.NAME` or `tagstash.NAME=VALUE` in the boot arguments.
//!
//! Boot arguments are split into words as Linux does it (`next_arg` of lib/cmdline.c): white
//! space separates them, except inside double quotes; quotes around a whole word or around its
//! value do not belong to it; in a name `-` and `_` are the same; a word `--` ends the
//! arguments of the kernel, and so of the shim. What merely stands inside the quotes of another
//! argument is therefore no option.
//!
//! Of several words that set the same the last one wins. A word that is not understood is
//! complained about and changes nothing.

use core::fmt;
use log::LevelFilter;

/// What all options begin with.
const PREFIX: &str = "tagstash.";

/// Most characters of a word that a complaint repeats.
const SHOWN: usize = 64;

/// Bits of a physical address, where they are capped. Those that PARange of ID_AA64MMFR0_EL1
/// encodes and that translation with 4 KiB granule without FEAT_LPA2 reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum PaBits {
    /// 4 GiB.
    Bits32 = 0,
    /// 64 GiB.
    Bits36 = 1,
    /// 1 TiB.
    Bits40 = 2,
    /// 4 TiB.
    Bits42 = 3,
    /// 16 TiB.
    Bits44 = 4,
    /// 256 TiB.
    Bits48 = 5,
}

impl PaBits {
    /// As PARange of ID_AA64MMFR0_EL1 has it.
    pub const fn pa_range(self) -> u64 {
        self as u64
    }
}

/// The options in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Tag storage may be lent.
    pub reuse: bool,
    /// The least important messages that the console shows.
    pub log: LevelFilter,
    /// Every activation verifies, whatever the guest asks for.
    pub verify: bool,
    /// The guest is not to see MTE.
    pub hide_mte: bool,
    /// The most address bits that the guest's map spans.
    pub pa_bits: Option<PaBits>,
    /// Pages are copied by FEAT_MOPS where the CPUs have it.
    pub mops: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            reuse: true,
            log: LevelFilter::Info,
            verify: false,
            hide_mte: false,
            pa_bits: None,
            mops: true,
        }
    }
}

/// One word that there is: its name, its value if it has one, and what it sets.
struct Word {
    name: &'static str,
    value: Value,
    set: fn(&mut Options),
}

/// What stands behind the name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    /// Nothing.
    None,
    /// This text.
    Is(&'static str),
    /// Anything: it is for others.
    Any,
}

const fn word(name: &'static str, value: Value, set: fn(&mut Options)) -> Word {
    Word { name, value, set }
}

use Value::Is;

/// All words. Those of one name stand together.
const WORDS: &[Word] = &[
    word("off", Value::None, |options| options.reuse = false),
    word("log", Is("error"), |options| options.log = LevelFilter::Error),
    word("log", Is("warn"), |options| options.log = LevelFilter::Warn),
    word("log", Is("info"), |options| options.log = LevelFilter::Info),
    word("log", Is("debug"), |options| options.log = LevelFilter::Debug),
    word("verify", Is("on"), |options| options.verify = true),
    word("verify", Is("off"), |options| options.verify = false),
    word("mte", Is("hide"), |options| options.hide_mte = true),
    word("mte", Is("show"), |options| options.hide_mte = false),
    word("pa-bits", Is("32"), |options| options.pa_bits = Some(PaBits::Bits32)),
    word("pa-bits", Is("36"), |options| options.pa_bits = Some(PaBits::Bits36)),
    word("pa-bits", Is("40"), |options| options.pa_bits = Some(PaBits::Bits40)),
    word("pa-bits", Is("42"), |options| options.pa_bits = Some(PaBits::Bits42)),
    word("pa-bits", Is("44"), |options| options.pa_bits = Some(PaBits::Bits44)),
    word("pa-bits", Is("48"), |options| options.pa_bits = Some(PaBits::Bits48)),
    word("mops", Is("on"), |options| options.mops = true),
    word("mops", Is("off"), |options| options.mops = false),
    // The test guest reads it.
    word("test", Value::Any, |_| {}),
];

/// A word that begins as an option and is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint<'a> {
    /// There is no option of this name.
    Unknown {
        /// The word.
        word: &'a str,
    },
    /// The option exists, the value is not one of its values.
    Value {
        /// The word.
        word: &'a str,
        /// The option's name.
        name: &'static str,
    },
}

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { word } => {
                write!(f, "boot option {} is unknown and ignored: there are", Shown(word))?;
                let mut last = "";
                for word in WORDS.iter().filter(|word| differs(&mut last, word.name)) {
                    write!(f, " {}", Usage(word.name))?;
                }
                Ok(())
            }
            Self::Value { word, name } => {
                write!(f, "boot option {} is ignored: it must be {}", Shown(word), Usage(name))
            }
        }
    }
}

/// Says whether `name` differs from the last one.
fn differs(last: &mut &'static str, name: &'static str) -> bool {
    core::mem::replace(last, name) != name
}

/// How the option of this name is written.
struct Usage(&'static str);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0)?;
        let mut separator = '=';
        for word in WORDS.iter().filter(|word| word.name == self.0) {
            match word.value {
                Value::None => {}
                Value::Is(value) => write!(f, "{separator}{value}")?,
                Value::Any => write!(f, "{separator}TEXT")?,
            }
            separator = '|';
        }
        Ok(())
    }
}

/// A word of the boot arguments, fit for a line of the console.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars().take(SHOWN) {
            write!(f, "{}", character.escape_debug())?;
        }
        if self.0.chars().nth(SHOWN).is_some() { write!(f, "...") } else { Ok(()) }
    }
}

impl Options {
    /// Reads the options in several boot arguments, as if they were one: a later one wins.
    pub fn read<'a>(
        arguments: impl IntoIterator<Item = &'a str>,
        mut complain: impl FnMut(Complaint<'a>),
    ) -> Options {
        let mut options = Options::default();
        for text in arguments {
            for argument in (Arguments { rest: text }).take_while(|argument| !argument.ends()) {
                if let Err(complaint) = options.apply(&argument) {
                    complain(complaint);
                }
            }
        }
        options
    }

    /// Does what one argument says, if it is an option.
    fn apply<'a>(&mut self, argument: &Argument<'a>) -> Result<(), Complaint<'a>> {
        let Some(name) = argument.name.strip_prefix(PREFIX) else { return Ok(()) };
        let word = argument.word;
        let mut candidates = WORDS.iter().filter(|word| same_name(word.name, name)).peekable();
        let Some(known) = candidates.peek().map(|word| word.name) else {
            return Err(Complaint::Unknown { word });
        };
        let fits = |value| match value {
            Value::None => argument.value.is_none(),
            Value::Is(text) => argument.value == Some(text),
            Value::Any => true,
        };
        match candidates.find(|word| fits(word.value)) {
            Some(found) => {
                (found.set)(self);
                Ok(())
            }
            None => Err(Complaint::Value { word, name: known }),
        }
    }
}

/// Compares names as Linux does: `-` and `_` are the same.
fn same_name(a: &str, b: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| plain(a) == plain(b))
}

/// One argument.
struct Argument<'a> {
    /// All of it, quotes included.
    word: &'a str,
    name: &'a str,
    value: Option<&'a str>,
}

impl Argument<'_> {
    /// What follows is for init.
    fn ends(&self) -> bool {
        self.name == "--" && self.value.is_none()
    }
}

/// Splits boot arguments.
struct Arguments<'a> {
    rest: &'a str,
}

/// White space, as C has it.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t'..='\r')
}

impl<'a> Iterator for Arguments<'a> {
    type Item = Argument<'a>;

    fn next(&mut self) -> Option<Argument<'a>> {
        let text = self.rest.trim_start_matches(is_space);
        if text.is_empty() {
            return None;
        }
        let mut quoted = false;
        let end = text.find(|character| {
            quoted ^= character == '"';
            !quoted && is_space(character)
        });
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        self.rest = rest;
        // A quote at the beginning is that of the whole word, and so is one at its end.
        let inner = match word.strip_prefix('"') {
            Some(inner) => inner.strip_suffix('"').unwrap_or(inner),
            None => word,
        };
        Some(match inner.split_once('=') {
            // Linux finds no name before a `=` that comes first.
            Some((name, value)) if !name.is_empty() => {
                let value = match value.strip_prefix('"') {
                    Some(value) => value.strip_suffix('"').unwrap_or(value),
                    None => value,
                };
                Argument { word, name, value: Some(value) }
            }
            _ => Argument { word, name: inner, value: None },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::{String, ToString};
    use std::vec::Vec;

    /// Reads; returns the complaints' words too.
    fn read(arguments: &[&str]) -> (Options, Vec<String>) {
        let mut complaints = Vec::new();
        let options =
            Options::read(arguments.iter().copied(), |one| complaints.push(one.to_string()));
        (options, complaints)
    }

    fn with(change: impl FnOnce(&mut Options)) -> Options {
        let mut options = Options::default();
        change(&mut options);
        options
    }

    fn bits(bits: PaBits) -> Options {
        with(|o| o.pa_bits = Some(bits))
    }

    #[test]
    fn every_word_does_what_it_says_and_nothing_else() {
        let log = |level| with(|o| o.log = level);
        let table = [
            ("tagstash.off", with(|o| o.reuse = false)),
            ("tagstash.log=error", log(LevelFilter::Error)),
            ("tagstash.log=warn", log(LevelFilter::Warn)),
            ("tagstash.log=info", Options::default()),
            ("tagstash.log=debug", log(LevelFilter::Debug)),
            ("tagstash.verify=on", with(|o| o.verify = true)),
            ("tagstash.verify=off", Options::default()),
            ("tagstash.mte=hide", with(|o| o.hide_mte = true)),
            ("tagstash.mte=show", Options::default()),
            ("tagstash.pa-bits=32", bits(PaBits::Bits32)),
            ("tagstash.pa-bits=36", bits(PaBits::Bits36)),
            ("tagstash.pa-bits=40", bits(PaBits::Bits40)),
            ("tagstash.pa-bits=42", bits(PaBits::Bits42)),
            ("tagstash.pa-bits=44", bits(PaBits::Bits44)),
            ("tagstash.pa-bits=48", bits(PaBits::Bits48)),
            ("tagstash.mops=on", Options::default()),
            ("tagstash.mops=off", with(|o| o.mops = false)),
            ("tagstash.test=anything", Options::default()),
            ("tagstash.test", Options::default()),
        ];
        for (argument, expected) in table {
            assert_eq!(read(&[argument]), (expected, Vec::new()), "{argument}");
            let among = std::format!("console=ttyAMA0 {argument}\tquiet");
            assert_eq!(read(&[&among]), (expected, Vec::new()), "{among}");
        }
        // The table above has every word of the table that is read.
        let tried = |word: &Word| {
            table.iter().any(|(argument, _)| match (word.value, argument.split_once('=')) {
                (Value::Is(value), Some((name, tried))) => {
                    name == std::format!("tagstash.{}", word.name) && tried == value
                }
                (Value::Is(_), None) => false,
                (Value::None | Value::Any, _) => {
                    argument.starts_with(&std::format!("tagstash.{}", word.name))
                }
            })
        };
        assert!(WORDS.iter().all(tried));
    }

    #[test]
    fn without_words_all_is_as_ever() {
        for arguments in [&[][..], &[""], &["  \t "], &["console=ttyAMA0 root=/dev/vda"]] {
            assert_eq!(read(arguments), (Options::default(), Vec::new()));
        }
    }

    const ALL: &str = "there are tagstash.off tagstash.log=error|warn|info|debug \
        tagstash.verify=on|off tagstash.mte=hide|show tagstash.pa-bits=32|36|40|42|44|48 \
        tagstash.mops=on|off tagstash.test=TEXT";

    #[test]
    fn bad_words_are_named_and_change_nothing() {
        let log = "tagstash.log=error|warn|info|debug";
        let verify = "tagstash.verify=on|off";
        let mte = "tagstash.mte=hide|show";
        let pa_bits = "tagstash.pa-bits=32|36|40|42|44|48";
        let table = [
            ("tagstash.off=1", "tagstash.off=1", "tagstash.off"),
            ("tagstash.off=", "tagstash.off=", "tagstash.off"),
            ("tagstash.log", "tagstash.log", log),
            ("tagstash.log=", "tagstash.log=", log),
            ("tagstash.log=loud", "tagstash.log=loud", log),
            ("tagstash.log=Error", "tagstash.log=Error", log),
            ("tagstash.log=error,warn", "tagstash.log=error,warn", log),
            ("tagstash.verify=1", "tagstash.verify=1", verify),
            ("tagstash.verify", "tagstash.verify", verify),
            ("tagstash.mte=off", "tagstash.mte=off", mte),
            ("tagstash.mte", "tagstash.mte", mte),
            ("tagstash.pa-bits=33", "tagstash.pa-bits=33", pa_bits),
            ("tagstash.pa-bits=52", "tagstash.pa-bits=52", pa_bits),
            ("tagstash.pa-bits=0x28", "tagstash.pa-bits=0x28", pa_bits),
            ("tagstash.pa-bits=-1", "tagstash.pa-bits=-1", pa_bits),
            (
                "tagstash.pa-bits=99999999999999999999",
                "tagstash.pa-bits=99999999999999999999",
                pa_bits,
            ),
            ("tagstash.mops", "tagstash.mops", "tagstash.mops=on|off"),
            // What cannot be printed does not disturb the console.
            ("tagstash.log=\x1b[2J", "tagstash.log=\\u{1b}[2J", log),
            ("tagstash.mte=\u{85}", "tagstash.mte=\\u{85}", mte),
        ];
        for (argument, shown, usage) in table {
            let message = std::format!("boot option {shown} is ignored: it must be {usage}");
            assert_eq!(read(&[argument]), (Options::default(), Vec::from([message])), "{argument}");
        }
        for unknown in
            ["tagstash.of", "tagstash.offf", "tagstash.", "tagstash.x=y", "tagstash.Log=warn"]
        {
            let message = std::format!("boot option {unknown} is unknown and ignored: {ALL}");
            assert_eq!(read(&[unknown]), (Options::default(), Vec::from([message])), "{unknown}");
        }
    }

    #[test]
    fn a_long_word_is_cut_in_the_message() {
        let word = std::format!("tagstash.{}", "ä".repeat(1000));
        let (_, complaints) = read(&[&word]);
        let shown = std::format!("tagstash.{}...", "ä".repeat(SHOWN - 9));
        assert_eq!(complaints, [std::format!("boot option {shown} is unknown and ignored: {ALL}")]);
    }

    #[test]
    fn names_of_others_are_no_options() {
        for arguments in [
            "tagstash",
            "tagstash=off",
            "Tagstash.off",
            "xtagstash.off",
            "foo.tagstash.off",
            "tagstash-off",
            "=tagstash.off",
            "a=tagstash.off",
            "a=\"x tagstash.off y\"",
            "\"a=x tagstash.off y\"",
            "a=\"tagstash.off\"",
            "dyndbg=\"file x +p\" b=\" tagstash.off",
            "quiet -- tagstash.off",
        ] {
            assert_eq!(read(&[arguments]), (Options::default(), Vec::new()), "{arguments}");
        }
    }

    #[test]
    fn words_are_split_as_linux_splits_them() {
        let debug = with(|o| o.log = LevelFilter::Debug);
        for arguments in [
            "tagstash.log=\"debug\"",
            "\"tagstash.log=debug\"",
            "tagstash.log=\"debug",
            "  tagstash.log=debug  ",
            "a\ntagstash.log=debug\x0bb",
            "a=\"b c\" tagstash.log=debug",
            "a\"b c\"d tagstash.log=debug",
            "--x tagstash.log=debug",
            "--=x tagstash.log=debug",
        ] {
            assert_eq!(read(&[arguments]), (debug, Vec::new()), "{arguments}");
        }
        for name in ["tagstash.pa-bits=40", "tagstash.pa_bits=40"] {
            assert_eq!(read(&[name]), (bits(PaBits::Bits40), Vec::new()), "{name}");
        }
    }

    #[test]
    fn the_last_word_wins_and_a_bad_one_does_not_count() {
        let warn = with(|o| o.log = LevelFilter::Warn);
        assert_eq!(read(&["tagstash.log=debug tagstash.log=warn"]).0, warn);
        assert_eq!(read(&["tagstash.log=debug", "tagstash.log=warn"]).0, warn);
        assert_eq!(read(&["tagstash.log=warn tagstash.log=loud"]).0, warn);
        // `--` ends one text, not the next.
        assert_eq!(read(&["a -- tagstash.log=debug", "tagstash.log=warn"]).0, warn);
        let both = with(|o| (o.verify, o.hide_mte) = (true, true));
        assert_eq!(read(&["tagstash.verify=on", "tagstash.mte=hide"]).0, both);
    }

    #[test]
    fn address_bits_are_those_of_the_architecture() {
        for (bits, range, count) in [
            (PaBits::Bits32, 0, 32),
            (PaBits::Bits36, 1, 36),
            (PaBits::Bits40, 2, 40),
            (PaBits::Bits42, 3, 42),
            (PaBits::Bits44, 4, 44),
            (PaBits::Bits48, 5, 48),
        ] {
            assert_eq!(bits.pa_range(), range);
            assert_eq!(crate::translation::pa_bits(bits.pa_range()), count);
        }
    }

    /// Whatever the text, reading ends, and every complaint can be printed.
    #[test]
    fn no_text_makes_reading_fail() {
        let pieces =
            ["tagstash.", "log", "=", "\"", " ", "debug", "--", "-", "\u{0}", "ß", "off", "\t"];
        let mut state = 0x1234_5678_9abc_def1u64;
        for _ in 0..if cfg!(miri) { 10 } else { 20_000 } {
            let mut text = String::new();
            for _ in 0..state % 24 {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                text.push_str(pieces[(state >> 33) as usize % pieces.len()]);
            }
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (_, complaints) = read(&[&text]);
            assert!(complaints.iter().all(|one| one.contains("tagstash.")), "{text}");
        }
    }
}
