//! What was tried and what came of it, told to whoever runs the tests (`tests/run --report`).

use std::fs::File;
use std::io::Write;
use std::time::Duration;

/// One line of the report.
#[derive(Debug)]
pub struct Row {
    pub title: String,
    /// Kinds of faults, and where they hit.
    pub faults: u64,
    pub positions: u64,
    /// Requests or calls that were checked.
    pub operations: u64,
    /// Of these, told to have failed while a fault was there.
    pub failed: u64,
    /// Bytes that are not where they were said to be, wrong ones, and whatever else must not be.
    pub losses: u64,
    pub hangs: u64,
    /// The longest wait, and what it may have been.
    pub longest: Duration,
    pub deadline: Duration,
}

impl Row {
    /// Adds it to the file that FTPSFS_REPORT names, for the table that tests/run makes.
    pub fn report(&self) {
        let seconds = |time: Duration| format!("{:.1}", time.as_secs_f64());
        let line = [
            self.title.clone(),
            self.faults.to_string(),
            self.positions.to_string(),
            self.operations.to_string(),
            self.failed.to_string(),
            self.losses.to_string(),
            self.hangs.to_string(),
            seconds(self.longest),
            seconds(self.deadline),
        ];
        let line = line.join("\t") + "\n";
        print!("{line}");
        if let Some(path) = std::env::var_os("FTPSFS_REPORT") {
            let file = File::options().create(true).append(true).open(path);
            let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
            written.expect("write the report");
        }
    }
}
