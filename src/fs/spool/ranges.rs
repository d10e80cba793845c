//! [`RangeSet`]: which bytes of a file, as sorted ranges that neither overlap nor touch.
//!
//! Knows nothing but numbers. Memory: about 40 bytes for each range.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// A set of byte offsets. Ranges that touch are merged; empty and reversed ranges are nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// From the start of each range to its end.
    ends: BTreeMap<u64, u64>,
    covered: u64,
}

impl RangeSet {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many ranges it takes.
    pub fn fragments(&self) -> usize {
        self.ends.len()
    }

    /// How many bytes are in it.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// The end of the last range; 0 when empty.
    pub fn end(&self) -> u64 {
        self.ends.last_key_value().map_or(0, |(_, &end)| end)
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ends.iter().map(|(&start, &end)| start..end)
    }

    /// Whether all of `range` is in it. The empty range always is.
    pub fn contains(&self, range: Range<u64>) -> bool {
        range.is_empty()
            || self
                .run_at(range.start)
                .is_some_and(|run| run.end >= range.end)
    }

    /// The parts of `range` that are in it, in order.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self
            .run_at(range.start)
            .map_or(range.start, |run| run.start);
        // `first` may lie beyond a reversed range's end.
        let runs = self.ends.range(first..range.end.max(first));
        let parts = runs.map(move |(&start, &end)| start.max(range.start)..end.min(range.end));
        parts.filter(|part| !part.is_empty())
    }

    /// The parts of `range` that are not in it, in order.
    pub fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut next = range.start;
        let stops = self.within(range.clone());
        let stops = stops.chain((!range.is_empty()).then_some(range.end..range.end));
        let gaps = stops.map(move |stop| {
            let gap = next..stop.start;
            next = stop.end;
            gap
        });
        gaps.filter(|gap| !gap.is_empty())
    }

    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &its_end)) = self.ends.range(..=start).next_back()
            && its_end >= start
        {
            start = before;
            end = end.max(its_end);
        }
        // Touching ranges merge too, hence `..=end`; each is removed once, so this is cheap.
        while let Some((&next, &its_end)) = self.ends.range(start..=end).next() {
            self.ends.remove(&next);
            self.covered -= its_end - next;
            end = end.max(its_end);
        }
        self.ends.insert(start, end);
        self.covered += end - start;
    }

    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        if let Some(run) = self.run_at(range.start) {
            self.cut(run, &range);
        }
        while let Some((&start, &end)) = self.ends.range(range.clone()).next() {
            self.cut(start..end, &range);
        }
    }

    /// Removes everything from `len` on.
    pub fn truncate(&mut self, len: u64) {
        self.remove(len..u64::MAX);
    }

    pub fn extend(&mut self, other: &Self) {
        other.iter().for_each(|range| self.insert(range));
    }

    pub fn subtract(&mut self, other: &Self) {
        other.iter().for_each(|range| self.remove(range));
    }

    /// Fills every gap between two of its ranges that lies wholly in `other`.
    pub fn bridge(&mut self, other: &Self) {
        let between: Vec<_> = self.gaps(0..self.end()).collect();
        for gap in between {
            if gap.start > 0 && other.contains(gap.clone()) {
                self.insert(gap);
            }
        }
    }

    /// Leaves of one of the ranges what lies outside of `hole`.
    fn cut(&mut self, run: Range<u64>, hole: &Range<u64>) {
        self.ends.remove(&run.start);
        self.covered -= run.end - run.start;
        for rest in [run.start..hole.start, hole.end..run.end] {
            if !rest.is_empty() {
                self.covered += rest.end - rest.start;
                self.ends.insert(rest.start, rest.end);
            }
        }
    }

    /// The range that `offset` lies in.
    fn run_at(&self, offset: u64) -> Option<Range<u64>> {
        let (&start, &end) = self.ends.range(..=offset).next_back()?;
        (end > offset).then_some(start..end)
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

impl From<Range<u64>> for RangeSet {
    fn from(range: Range<u64>) -> Self {
        Self::from_iter(std::iter::once(range))
    }
}

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
