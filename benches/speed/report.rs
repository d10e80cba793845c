//! The results: printed as a table, kept in a file, compared with those of another run.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use super::peers::Peer;
use super::rows::{ROWS, Row};

/// What one row came to for one peer.
#[derive(Clone, Debug)]
pub struct Result {
    /// Milliseconds there and back.
    pub round_trip: u32,
    pub row: String,
    pub peer: String,
    /// In the row's unit, or why there is none.
    pub value: std::result::Result<f64, String>,
    /// For each operation, where the row counts operations; so are the bytes.
    pub trips: Option<f64>,
    pub received: u64,
    pub sent: u64,
    /// Of the peer's process, bytes.
    pub peak_memory: Option<u64>,
}

impl Result {
    /// What came of it, in one line.
    pub fn line(&self) -> String {
        let trips = self
            .trips
            .map_or(String::new(), |trips| format!(", {trips:.1} round trips"));
        format!("{}: {}{trips}", self.peer, shown(&Some(self.clone())))
    }
}

/// A table in Markdown for each round trip. `before`: results to compare with.
pub fn table(results: &[Result], round_trip: u32, peers: &[Peer], before: &[Result]) -> String {
    let find = |results: &[Result], row: &Row, peer: &str| {
        let same = |r: &&Result| r.round_trip == round_trip && r.row == row.name && r.peer == peer;
        results.iter().find(same).cloned()
    };
    let mut text = format!("At {round_trip} ms round trip:\n\n| work | unit | goal | ftpsfs |");
    if !before.is_empty() {
        text += " before |";
    }
    text += " round trips | KiB received | KiB sent | peak MiB |";
    let others: Vec<_> = peers.iter().filter(|peer| **peer != Peer::Ftpsfs).collect();
    for peer in &others {
        let _ = write!(text, " {} |", peer.name());
    }
    let columns = 8 + others.len() + usize::from(!before.is_empty());
    let _ = writeln!(text, "\n|---{}|", "|---".repeat(columns - 1));
    for row in ROWS {
        let found: Vec<_> = others
            .iter()
            .map(|peer| find(results, row, peer.name()))
            .collect();
        let own = find(results, row, Peer::Ftpsfs.name());
        if own.is_none() && found.iter().all(Option::is_none) {
            continue;
        }
        let goal = if row.local || round_trip == 20 {
            row.goal
        } else {
            ""
        };
        let _ = write!(
            text,
            "| {} | {} | {goal} | {} |",
            row.title,
            row.unit.name(),
            shown(&own)
        );
        if !before.is_empty() {
            let _ = write!(
                text,
                " {} |",
                shown(&find(before, row, Peer::Ftpsfs.name()))
            );
        }
        let about = |show: &dyn Fn(&Result) -> Option<String>| {
            own.as_ref().and_then(show).unwrap_or_default()
        };
        let trips = about(&|r| r.trips.map(|trips| format!("{trips:.1}")));
        let received = about(&|r| Some((r.received >> 10).to_string()));
        let sent = about(&|r| Some((r.sent >> 10).to_string()));
        let memory = about(&|r| r.peak_memory.map(|peak| (peak >> 20).to_string()));
        let _ = write!(text, " {trips} | {received} | {sent} | {memory} |");
        for result in &found {
            let _ = write!(text, " {} |", shown(result));
        }
        text.push('\n');
    }
    text
}

fn shown(result: &Option<Result>) -> String {
    match result.as_ref().map(|result| &result.value) {
        None => String::new(),
        Some(Err(why)) => why.clone(),
        Some(Ok(value)) if *value < 1.0 => format!("{value:.2}"),
        Some(Ok(value)) if *value < 10.0 => format!("{value:.1}"),
        Some(Ok(value)) => format!("{value:.0}"),
    }
}

/// One result a line, its fields between tabs.
pub fn save(results: &[Result], path: &Path) -> io::Result<()> {
    let optional = |number: Option<String>| number.unwrap_or_default();
    let line = |r: &Result| {
        let value = match &r.value {
            Ok(value) => value.to_string(),
            Err(why) => why.replace(['\t', '\n'], " "),
        };
        let trips = optional(r.trips.map(|trips| trips.to_string()));
        let memory = optional(r.peak_memory.map(|memory| memory.to_string()));
        format!(
            "{}\t{}\t{}\t{value}\t{trips}\t{}\t{}\t{memory}\n",
            r.round_trip, r.row, r.peer, r.received, r.sent
        )
    };
    fs::write(path, results.iter().map(line).collect::<String>())
}

pub fn load(path: &Path) -> io::Result<Vec<Result>> {
    let parse = |line: &str| {
        let fields: Vec<_> = line.split('\t').collect();
        let [round_trip, row, peer, value, trips, received, sent, memory] = fields[..] else {
            return None;
        };
        Some(Result {
            round_trip: round_trip.parse().ok()?,
            row: row.to_owned(),
            peer: peer.to_owned(),
            value: value.parse().map_err(|_| value.to_owned()),
            trips: trips.parse().ok(),
            received: received.parse().ok()?,
            sent: sent.parse().ok()?,
            peak_memory: memory.parse().ok(),
        })
    };
    let text = fs::read_to_string(path)?;
    let results = text.lines().map(parse).collect::<Option<_>>();
    results.ok_or_else(|| io::Error::other(format!("{} has no saved results", path.display())))
}
