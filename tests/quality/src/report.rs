// SPDX-License-Identifier: MIT OR Apache-2.0
//! The results as Markdown, which is what the terminal shows too, and as JSON.

use crate::associative::Design;
use crate::explore::{Group, Sample, Summary, designs};
use crate::row::{FILL, GAP, Row, Verdict};
use std::fmt::Write;

/// Lays rows of cells out as a Markdown table. All columns but the first are numbers or words
/// to the right.
fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].len());
        cells.chain([heads[column].len(), 3]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (column, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
            let _ = match column {
                0 => write!(text, "| {cell:width$} "),
                _ => write!(text, "| {cell:>width$} "),
            };
        }
        text + "|\n"
    };
    let heads: Vec<String> = heads.iter().map(ToString::to_string).collect();
    let rules: Vec<String> = (widths.iter().enumerate())
        .map(|(column, &width)| match column {
            0 => "-".repeat(width),
            _ => "-".repeat(width - 1) + ":",
        })
        .collect();
    [heads, rules].iter().chain(rows).map(|cells| line(cells)).collect()
}

fn point(value: f64) -> String {
    // No minus before a zero.
    let text = format!("{value:.1}");
    if text == "-0.0" { "0.0".to_string() } else { text }
}

/// The rows beside their goals.
pub fn rows(title: &str, rows: &[Row], sizes: bool) -> String {
    let heads = [
        if sizes { "workload; page cache; frames" } else { "workload; page cache" },
        "MIN",
        "SIEVE+",
        "LRU",
        "random",
        "pinned",
        "stash",
        "gap",
        "fill %",
        "flushed",
        "goal",
    ];
    let line = |row: &Row| {
        let mut name = row.workload.to_string();
        if sizes {
            let _ = write!(name, "; {}", row.workload.frames);
        }
        let mut cells = vec![name];
        for outcome in [row.offline, row.sieve, row.lru, row.random, row.pinned, row.stash] {
            cells.push(point(outcome.rate()));
        }
        cells.push(point(row.gap()));
        cells.push(point(100.0 * row.stash.fill));
        cells.push(point(row.exact.rate() - row.stash.rate()));
        cells.push(row.verdict().word().to_string());
        cells
    };
    let cells: Vec<_> = rows.iter().map(line).collect();
    let mut text = format!("## {title}\n\n{}\n", table(&heads, &cells));
    let count = |verdict| rows.iter().filter(|row| row.verdict() == verdict).count();
    let _ = writeln!(
        text,
        "{} rows: {} met the goal, {} miss it as is known, {} missed it.",
        rows.len(),
        count(Verdict::Met),
        count(Verdict::Known),
        count(Verdict::Missed)
    );
    let mut reasons: Vec<&str> = vec![];
    for row in rows.iter().filter(|row| row.verdict() == Verdict::Known) {
        reasons.extend(row.known.map(|known| known.reason));
    }
    reasons.sort_unstable();
    reasons.dedup();
    for reason in reasons {
        let _ = writeln!(text, "Known: {reason}.");
    }
    text
}

/// What the columns mean.
pub fn legend() -> String {
    format!(
        "Hit rates are percent of the pages that missed the page cache, after the warm-up; gaps are points of them.\n\
         \n\
         * *page cache*: its size, in multiples of the stash. *claims*: 5 % to 40 % of the storage is in tags, in bursts.\n\
         * *MIN*: the offline bound. *LRU*: ideal LRU, which is FIFO (and SIEVE) where a hit removes. *random*: ideal random.\n\
         \x20 *pinned*: LRU whose pages cannot move out of a frame that is claimed. *SIEVE+*: SIEVE that remembers pages that are gone.\n\
         * *gap*: the better of LRU and random, less the stash. *fill*: share of the lent frames that hold a page, over time.\n\
         \x20 *flushed*: points that flushes of other objects cost.\n\
         * *goal*: a gap of at most {GAP} points and a fill of at least {FILL} % of that of *pinned*.\n"
    )
}

/// The designs beside each other.
pub fn designs_table(samples: &[Vec<Sample>]) -> String {
    let mut text = String::from(
        "## What was chosen and why\n\n\
         A model of the table in which the design varies. As the stash is built, it answers every get of every row as the stash does.\n\
         *gap*: points lost against the better of ideal LRU and random; *pinned*: the same with claims, against LRU whose pages cannot\n\
         move; *fill*: least, in percent of that LRU's. *2 x 8*: one set of 8 frames in each half of the table. Moments are as many as\n\
         frames, three an object, where nothing else is said. The first line is the stash.\n\n",
    );
    for group in Group::ALL {
        let line = |(number, design): (usize, Design)| {
            let summary = Summary::of(samples, group, number)?;
            let values = [summary.mean, summary.worst, summary.pinned, summary.fill];
            let numbers = values.iter().map(|value| format!("{value:.2}"));
            Some([design.to_string()].into_iter().chain(numbers).collect())
        };
        // Only files are flushed.
        let differs =
            |design: &Design| group == Group::Files || design.flushes == Design::REAL.flushes;
        let lines: Vec<Vec<String>> = (designs().into_iter().enumerate())
            .filter(|(_, design)| differs(design))
            .filter_map(line)
            .collect();
        if lines.is_empty() {
            continue;
        }
        let heads = [group.name(), "mean gap", "worst gap", "pinned", "least fill"];
        let _ = writeln!(text, "{}", table(&heads, &lines));
    }
    text
}

/// The rows as JSON.
pub fn json(seed: u64, rows: &[Row]) -> String {
    let one = |row: &Row| {
        let Row { workload, .. } = row;
        format!(
            "{{\"workload\": \"{}\", \"frames\": {}, \"page_cache\": {}, \"claims\": {}, \"seed\": {}, \"operations\": {}, \
             \"gets\": {}, \"hits\": {}, \"refused\": {}, \"rate\": {:.4}, \"min\": {:.4}, \"lru\": {:.4}, \"pinned\": {:.4}, \
             \"random\": {:.4}, \"sieve\": {:.4}, \"exact_flushes\": {:.4}, \"fill\": {:.4}, \"fill_pinned\": {:.4}, \
             \"gap\": {:.4}, \"verdict\": \"{}\", \"model_agrees\": {}}}",
            workload.kind,
            workload.frames,
            workload.cache,
            workload.claims,
            workload.seed,
            row.operations,
            row.stash.gets,
            row.stash.hits,
            row.refused,
            row.stash.rate(),
            row.offline.rate(),
            row.lru.rate(),
            row.pinned.rate(),
            row.random.rate(),
            row.sieve.rate(),
            row.exact.rate(),
            row.stash.fill,
            row.pinned.fill,
            row.gap(),
            row.verdict().word(),
            row.modelled
        )
    };
    let rows: Vec<String> = rows.iter().map(one).collect();
    format!("{{\"seed\": {seed}, \"rows\": [\n{}\n]}}\n", rows.join(",\n"))
}
