//! How far streams go, what they keep, and a model that remembers every byte.

use proptest::prelude::*;

use super::super::memory::{BUFFER, Memory, Part};
use super::*;

fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 7) as u8
}

fn part() -> Arc<Part> {
    Memory::new(64 << 20).join()
}

/// Fetches what is missing, in pieces of at most `most` bytes of a file of `size`.
fn fetch(window: &mut Window, part: &Arc<Part>, size: u64, most: usize) {
    while window.missing() > 0 {
        let mut buffer = part.lease(0, true).ok().unwrap();
        let at = window.end();
        let len = window.missing().min(most.min(BUFFER) as u64).min(size - at);
        for (i, b) in buffer[..len as usize].iter_mut().enumerate() {
            *b = byte(at + i as u64);
        }
        window.push(buffer, len as usize);
        if len == 0 {
            window.finish();
        }
    }
}

fn bytes(window: &mut Window, read: Range<u64>) -> Option<Vec<u8>> {
    Some(window.cut(&read)?.join().to_vec())
}

fn expected(read: Range<u64>) -> Vec<u8> {
    read.map(byte).collect()
}

const SIZE: u64 = 100 * MIB;

#[test]
fn the_start_of_a_file_is_read_ahead_modestly() {
    let mut window = Window::new(0, SIZE);
    window.ask(&(0..4096));
    assert_eq!(window.missing(), 4096 + 256 * KIB);
}

#[test]
fn the_last_of_several_streams_goes_on_alone_unless_it_has_ended() {
    let part = part();
    let stripe = || {
        let mut window = Window::new(10 * MIB, SIZE);
        assert!(window.end_at(20 * MIB));
        window
    };
    let mut window = stripe();
    window.ask(&(10 * MIB..11 * MIB));
    assert!(window.go_on());
    window.ask(&(19 * MIB..21 * MIB));
    fetch(&mut window, &part, SIZE, BUFFER);
    // As far ahead as any reader is.
    assert!((21 * MIB..=29 * MIB).contains(&window.end()));
    assert!(!window.is_complete() && window.limit() == u64::MAX);

    let mut ended = stripe();
    fetch(&mut ended, &part, SIZE, BUFFER);
    assert!(!ended.go_on());
    assert_eq!((ended.limit(), ended.left()), (20 * MIB, 0));
}

#[test]
fn who_goes_on_reading_gets_more_ahead_up_to_a_bound() {
    let part = part();
    let mut window = Window::new(0, SIZE);
    let mut at = 0;
    while at < 20 * MIB {
        let read = at..at + 128 * KIB;
        window.ask(&read);
        fetch(&mut window, &part, SIZE, BUFFER);
        assert_eq!(bytes(&mut window, read.clone()).unwrap(), expected(read));
        assert!(window.end() - at <= 8 * MIB + 128 * KIB);
        window.trim(256);
        assert!(window.pieces.len() <= 66);
        at += 128 * KIB;
    }
    assert!(window.end() - at > 8 * MIB - BUFFER as u64);
}

#[test]
fn one_that_is_far_ahead_keeps_what_late_reads_ask_for() {
    let part = part();
    let mut window = Window::new(0, SIZE);
    window.ask(&(0..MIB));
    assert!(window.end_at(40 * MIB) && !window.end_at(41 * MIB));
    fetch(&mut window, &part, SIZE, BUFFER);
    assert!(window.is_complete() && window.end() == 40 * MIB);
    // Of reads that are under way together the last may be answered first.
    for at in [2 * MIB, 0, MIB] {
        let read = at..at + MIB;
        window.ask(&read);
        assert_eq!(bytes(&mut window, read.clone()).unwrap(), expected(read));
        window.trim(160);
    }
    assert!(!window.reaches(&(40 * MIB..41 * MIB), SIZE));
}

#[test]
fn a_random_read_fetches_its_own_unit_only() {
    let mut window = Window::new(50 * MIB + 5, SIZE);
    window.ask(&(50 * MIB + 5..50 * MIB + 4101));
    assert_eq!(window.missing(), 128 * KIB - 5);
    assert!(window.is_random());
    // The same question again is not a second read.
    window.ask(&(50 * MIB + 5..50 * MIB + 4101));
    assert!(window.is_random());
    window.ask(&(50 * MIB + 4101..50 * MIB + 8197));
    assert!(!window.is_random());
}

#[test]
fn a_small_rest_is_fetched_to_the_verified_end() {
    let part = part();
    let mut window = Window::new(0, 700 * KIB);
    window.ask(&(0..4096));
    assert_eq!(window.missing(), 700 * KIB);
    fetch(&mut window, &part, 700 * KIB, BUFFER);
    assert!(window.end_of_file);
    let read = 699 * KIB..701 * KIB;
    assert_eq!(
        bytes(&mut window, read).unwrap(),
        expected(699 * KIB..700 * KIB)
    );
    assert_eq!(bytes(&mut window, 700 * KIB..701 * KIB), Some(vec![]));
}

#[test]
fn reads_within_reach_wait_and_others_do_not() {
    let mut window = Window::new(0, SIZE);
    window.ask(&(0..128 * KIB));
    assert!(window.reaches(&(2 * MIB..3 * MIB), SIZE));
    assert!(!window.reaches(&(3 * MIB..4 * MIB), SIZE));
    // What is asked for already counts, or many requests in flight would look like jumps.
    window.ask(&(2 * MIB..3 * MIB));
    assert!(window.reaches(&(4 * MIB..5 * MIB), SIZE));
    let random = Window::new(10 * MIB, SIZE);
    assert!(random.reaches(&(10 * MIB + 200 * KIB..11 * MIB), SIZE));
    assert!(!random.reaches(&(11 * MIB..12 * MIB), SIZE));
    assert!(!random.reaches(&(9 * MIB..11 * MIB), SIZE));
}

#[test]
fn beyond_the_end_a_stream_reaches_only_while_the_file_has_not_grown() {
    let part = part();
    let mut window = Window::new(0, 1000);
    window.ask(&(0..4096));
    fetch(&mut window, &part, 1000, BUFFER);
    assert!(window.reaches(&(0..4096), 1000));
    assert!(window.reaches(&(1000..2000), 1000));
    assert!(!window.reaches(&(1000..2000), 1001));
    assert!(!window.reaches(&(500..2000), 1001));
    assert!(window.reaches(&(0..1000), 5000));
}

#[test]
fn nothing_that_a_read_waits_for_is_dropped() {
    let part = part();
    let mut window = Window::new(0, SIZE);
    let early = 0..128 * KIB;
    window.wait(&early);
    assert_eq!(window.wanted(), 128 * KIB);
    window.ask(&(0..16 * MIB));
    fetch(&mut window, &part, SIZE, BUFFER);
    assert_eq!(window.wanted(), u64::MAX);
    assert!(window.cut(&(15 * MIB..16 * MIB)).is_some());
    window.trim(4);
    assert_eq!(
        bytes(&mut window, early.clone()).unwrap(),
        expected(early.clone())
    );
    window.unwait(&early);
    window.trim(256);
    assert!(window.cut(&early).is_none());
    assert!(window.has_passed(&early));
    assert!(window.cut(&(14 * MIB..15 * MIB)).is_some());
}

#[test]
fn a_read_in_one_piece_is_not_copied() {
    let part = part();
    let mut window = Window::new(0, SIZE);
    window.ask(&(0..MIB));
    fetch(&mut window, &part, SIZE, BUFFER);
    let one = window.cut(&(128 * KIB..256 * KIB)).unwrap().join();
    assert!(matches!(one.0, Parts::One(..)));
    let joined = window.cut(&(128 * KIB..384 * KIB)).unwrap().join();
    assert!(matches!(joined.0, Parts::Joined(_)));
    assert_eq!(joined[..], expected(128 * KIB..384 * KIB)[..]);
}

proptest! {
    /// Whatever is asked, in whatever order and pieces: the bytes are the file's, and what is
    /// within the window is answered.
    #[test]
    fn the_bytes_are_the_files(
        origin in 0..MIB,
        extra in 0..MIB,
        reads in prop::collection::vec((0..2 * MIB, 1..300 * KIB), 1..20),
        most in 1000..BUFFER,
        share in 1..64usize,
    ) {
        let size = origin + extra;
        let part = part();
        let mut window = Window::new(origin, size);
        for (start, len) in reads {
            let read = start..start + len;
            if !window.reaches(&read, size) {
                continue;
            }
            window.ask(&read);
            window.wait(&read);
            fetch(&mut window, &part, size, most);
            let end = read.end.min(size);
            let wanted = if start < end { expected(start..end) } else { vec![] };
            prop_assert_eq!(bytes(&mut window, read.clone()), Some(wanted));
            window.unwait(&read);
            window.trim(share);
        }
    }
}

#[test]
fn a_read_beyond_the_end_of_the_last_of_several_streams_is_answered() {
    let part = part();
    let mut window = Window::new(SIZE - MIB, SIZE);
    window.fetch_all();
    let read = SIZE - 4096..SIZE + 4096;
    window.ask(&read);
    fetch(&mut window, &part, SIZE, BUFFER);
    let last = SIZE - 4096..SIZE;
    assert_eq!(bytes(&mut window, read), Some(expected(last)));
}
