// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a run leaves: text on the terminal, the same in Markdown, and its numbers in JSON.

use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// A report that grows while the run goes on.
#[derive(Default)]
pub struct Report {
    markdown: String,
    goals: Vec<(String, bool)>,
}

impl Report {
    /// Adds a paragraph, a heading or a table, and prints it.
    pub fn text(&mut self, text: &str) {
        println!("{}", text.trim_end());
        println!();
        self.markdown += text.trim_end();
        self.markdown += "\n\n";
    }

    /// Notes whether a goal is met.
    pub fn goal(&mut self, what: String, met: bool) {
        self.goals.push((what, met));
    }

    /// Prints the goals and writes `results.md` and `results.json` under `directory`. Says
    /// whether all goals are met.
    pub fn finish(mut self, directory: &Path, mut results: Value) -> Result<bool, String> {
        let line = |(what, met): &(String, bool)| {
            format!("* {}: {what}", if *met { "met" } else { "MISSED" })
        };
        let lines: Vec<String> = self.goals.iter().map(line).collect();
        if !lines.is_empty() {
            self.text("## Goals");
            self.text(&lines.join("\n"));
        }
        let goal = |(what, met): &(String, bool)| json!({ "goal": what, "met": met });
        results["goals"] = self.goals.iter().map(goal).collect();
        let write = |name: &str, text: &str| {
            let file = directory.join(name);
            fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
        };
        fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        write("results.md", &self.markdown)?;
        write("results.json", &format!("{results:#}\n"))?;
        println!("written: {0}/results.md and {0}/results.json", directory.display());
        Ok(self.goals.iter().all(|(_, met)| *met))
    }
}

/// The machine, in words, for the head of a report.
pub fn machine() -> Value {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model = model.and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown");
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    // All of them: this process may be kept on one.
    // SAFETY: asks for a number.
    let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    json!({
        "cpu": model,
        "architecture": std::env::consts::ARCH,
        "cpus": cpus,
        "load at start": load.split(' ').next().unwrap_or(""),
    })
}

/// The version of a package, by the lock file that the program was built with.
pub fn version(package: &str) -> String {
    let lock = include_str!("../../../Cargo.lock");
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name);
    let version = lines.nth(1).and_then(|line| line.split('"').nth(1));
    version.unwrap_or("unknown").to_string()
}
