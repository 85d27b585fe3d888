// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows as a plot: one line a workload, one mark a cache, hit rates from left to right.

use crate::cache::Outcome;
use crate::row::Row;
use std::fmt::Write;

const LEFT: f64 = 230.0;
const WIDTH: f64 = 640.0;
const TOP: f64 = 96.0;
const STEP: f64 = 20.0;
const RIGHT: f64 = 40.0;

/// A cache as the plot shows it.
struct Series {
    name: &'static str,
    colour: &'static str,
    /// Drawn about the origin.
    shape: &'static str,
    outcome: fn(&Row) -> Outcome,
}

const SERIES: [Series; 5] = [
    Series {
        name: "offline bound (MIN)",
        colour: "#888888",
        shape: "M0 -6V6",
        outcome: |row| row.offline,
    },
    Series {
        name: "SIEVE with memory",
        colour: "#b07aa1",
        shape: "M-4 4L0 -4L4 4Z",
        outcome: |row| row.sieve,
    },
    Series {
        name: "ideal random",
        colour: "#e08a1e",
        shape: "M-4 0L0 -4L4 0L0 4Z",
        outcome: |row| row.random,
    },
    Series {
        name: "ideal LRU = FIFO",
        colour: "#2a6fb0",
        shape: "M-4 -4H4V4H-4Z",
        outcome: |row| row.lru,
    },
    Series {
        name: "the stash",
        colour: "#c0272d",
        shape: "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0Z",
        outcome: |row| row.stash,
    },
];

fn across(rate: f64) -> f64 {
    LEFT + WIDTH * rate / 100.0
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, size: u32, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\" fill=\"#222222\">{words}</text>"
    );
}

fn mark(svg: &mut String, series: &Series, x: f64, y: f64) {
    let Series { colour, shape, .. } = series;
    // All but the stash are outlines, so that marks on each other can be told apart.
    let fill = if series.name == "the stash" { colour } else { "none" };
    let _ = writeln!(
        svg,
        "<path d=\"{shape}\" transform=\"translate({x:.1} {y:.1})\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.6\"/>"
    );
}

/// Draws the rows.
pub fn svg(title: &str, rows: &[Row]) -> String {
    let bottom = TOP + STEP * rows.len() as f64;
    let (width, height) = (LEFT + WIDTH + RIGHT, bottom + 52.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    text(&mut svg, 16.0, 28.0, "start", 17, title);
    let mut x = LEFT - 60.0;
    for series in &SERIES {
        mark(&mut svg, series, x, 56.0);
        text(&mut svg, x + 11.0, 60.0, "start", 12, series.name);
        x += 24.0 + 7.2 * series.name.len() as f64;
    }
    for percent in (0..=100).step_by(10) {
        let x = across(f64::from(percent));
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {:.1}V{bottom:.1}\" stroke=\"#e2e2e2\" stroke-width=\"1\"/>",
            TOP - 10.0
        );
        text(&mut svg, x, bottom + 18.0, "middle", 12, &percent.to_string());
    }
    text(&mut svg, LEFT + WIDTH / 2.0, bottom + 40.0, "middle", 13, "hit rate of gets, per cent");
    text(&mut svg, LEFT - 12.0, TOP - 14.0, "end", 13, "workload; page cache / stash");
    for (number, row) in rows.iter().enumerate() {
        let y = TOP + STEP * (number as f64 + 0.5);
        if number.is_multiple_of(2) {
            let _ = writeln!(
                svg,
                "<rect x=\"0\" y=\"{:.1}\" width=\"{width}\" height=\"{STEP}\" fill=\"#000000\" fill-opacity=\"0.035\"/>",
                y - STEP / 2.0
            );
        }
        text(&mut svg, LEFT - 12.0, y + 4.0, "end", 12, &row.workload.to_string());
        for series in &SERIES {
            mark(&mut svg, series, across((series.outcome)(row).rate()), y);
        }
    }
    svg + "</svg>\n"
}
