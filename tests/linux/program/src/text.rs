// SPDX-License-Identifier: MIT OR Apache-2.0
//! Text for the console, a line at a time.

use core::fmt::{self, Write};

use crate::sys;

/// A line in the making; what is too long for it is cut off.
pub struct Text {
    bytes: [u8; 600],
    used: usize,
}

impl Text {
    /// Formats a text.
    pub fn new(arguments: fmt::Arguments<'_>) -> Text {
        let mut text = Text { bytes: [0; 600], used: 0 };
        let _ = text.write_fmt(arguments);
        text
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let place = self.bytes.get_mut(self.used).ok_or(fmt::Error)?;
            *place = byte;
            self.used += 1;
        }
        Ok(())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.bytes[..self.used]).unwrap_or("(words cut short)"))
    }
}

/// Prints a line by one write, so that lines of two processes do not mix.
pub fn print_line(arguments: fmt::Arguments<'_>) {
    let mut line = Text::new(arguments);
    line.used = line.used.min(line.bytes.len() - 1);
    line.bytes[line.used] = b'\n';
    line.used += 1;
    sys::write(1, &line.bytes[..line.used]);
}

/// Prints a line.
#[macro_export]
macro_rules! println {
    ($($words:tt)*) => { $crate::text::print_line(format_args!($($words)*)) };
}
