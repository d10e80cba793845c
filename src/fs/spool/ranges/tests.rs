//! [`RangeSet`] against a plain bitmap.

use proptest::prelude::*;

use super::*;

const SPACE: usize = 64;

#[derive(Clone, Debug)]
enum Op {
    Insert(Range<u64>),
    Remove(Range<u64>),
    Truncate(u64),
    Bridge(Range<u64>),
}

/// Reversed ones too: they are nothing.
fn range() -> impl Strategy<Value = Range<u64>> {
    (0..SPACE as u64, 0..=SPACE as u64).prop_map(|(start, end)| start..end)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => range().prop_map(Op::Insert),
        3 => range().prop_map(Op::Remove),
        1 => (0..=SPACE as u64).prop_map(Op::Truncate),
        1 => range().prop_map(Op::Bridge),
    ]
}

fn bits(range: &Range<u64>) -> Range<usize> {
    let start = range.start as usize;
    start..(range.end as usize).max(start)
}

/// The naive way to the runs of `value` within `range`.
fn runs(bitmap: &[bool; SPACE], range: &Range<u64>, value: bool) -> Vec<Range<u64>> {
    let mut found: Vec<Range<u64>> = Vec::new();
    for at in bits(range).filter(|&at| bitmap[at] == value) {
        let at = at as u64;
        match found.last_mut() {
            Some(last) if last.end == at => last.end += 1,
            _ => found.push(at..at + 1),
        }
    }
    found
}

proptest! {
    #[test]
    fn behaves_as_a_bitmap(ops in prop::collection::vec((op(), range()), 1..60)) {
        let mut set = RangeSet::new();
        let mut bitmap = [false; SPACE];
        for (op, probe) in ops {
            match op {
                Op::Insert(range) => {
                    set.insert(range.clone());
                    bitmap[bits(&range)].fill(true);
                }
                Op::Remove(range) => {
                    set.remove(range.clone());
                    bitmap[bits(&range)].fill(false);
                }
                Op::Truncate(len) => {
                    set.truncate(len);
                    bitmap[len as usize..].fill(false);
                }
                Op::Bridge(range) => {
                    let last = bitmap.iter().rposition(|&bit| bit).unwrap_or(0) as u64;
                    for gap in runs(&bitmap, &(0..last), false) {
                        let inside = range.start <= gap.start && gap.end <= range.end;
                        if gap.start > 0 && inside {
                            bitmap[bits(&gap)].fill(true);
                        }
                    }
                    set.bridge(&RangeSet::from(range));
                }
            }
            let all = runs(&bitmap, &(0..SPACE as u64), true);
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), all.clone());
            prop_assert_eq!(set.fragments(), all.len());
            prop_assert_eq!(set.covered(), bitmap.iter().filter(|&&bit| bit).count() as u64);
            prop_assert_eq!(set.end(), all.last().map_or(0, |run| run.end));
            prop_assert_eq!(set.is_empty(), all.is_empty());
            prop_assert_eq!(
                set.within(probe.clone()).collect::<Vec<_>>(),
                runs(&bitmap, &probe, true)
            );
            let gaps = runs(&bitmap, &probe, false);
            prop_assert_eq!(set.contains(probe.clone()), gaps.is_empty());
            prop_assert_eq!(set.gaps(probe).collect::<Vec<_>>(), gaps);
        }
    }
}

#[test]
fn reaches_to_the_last_offset() {
    let mut set = RangeSet::from_iter([0..10, u64::MAX - 5..u64::MAX]);
    assert_eq!(set.covered(), 15);
    assert!(set.contains(u64::MAX - 1..u64::MAX));
    set.remove(5..u64::MAX);
    assert_eq!(set, RangeSet::from(0..5));
}

#[test]
fn union_and_difference() {
    let mut set = RangeSet::from_iter([0..10, 20..30]);
    set.extend(&RangeSet::from_iter([5..20, 40..50]));
    assert_eq!(set, RangeSet::from_iter([0..30, 40..50]));
    set.subtract(&RangeSet::from_iter([0..1, 29..41]));
    assert_eq!(set, RangeSet::from_iter([1..29, 41..50]));
}
