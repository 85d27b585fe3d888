// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables, for the terminal and in Markdown.

use std::fmt::Write;

/// A table of text. The first column is aligned left, the others right.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these heads of columns.
    pub fn new(head: &[&str]) -> Table {
        Table { rows: vec![head.iter().map(|cell| (*cell).to_string()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.rows[0].len());
        self.rows.push(cells);
    }

    /// The table in Markdown, padded so that it reads as it is.
    pub fn markdown(&self) -> String {
        let columns = 0..self.rows[0].len();
        let widths: Vec<usize> = columns
            .map(|n| self.rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0).max(3))
            .collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (n, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let _ = match n {
                    0 => write!(text, "| {cell:width$} "),
                    _ => write!(text, "| {cell:>width$} "),
                };
            }
            text.push_str("|\n");
            if number == 0 {
                for (n, &width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width - 1);
                    let _ = match n {
                        0 => write!(text, "| {dashes}- "),
                        _ => write!(text, "| {dashes}: "),
                    };
                }
                text.push_str("|\n");
            }
        }
        text
    }
}
