//! What stays of finished streams.

use super::super::Reader;
use super::super::memory::BUFFER;
use super::super::tests::{serve, soon};
use super::*;
use crate::server::Faults;

#[test]
fn a_finished_stream_ends_though_its_file_stays_open() {
    let patience = Duration::from_millis(400);
    let (_server, mut reads, target) = serve(b"hello", 16 * BUFFER, &Faults::default());
    Arc::get_mut(&mut reads).unwrap().leftovers = Leftovers::new(patience);
    let reader = Reader::new(&reads);
    for _ in 0..2 {
        let read = || reader.read(&target, 0, 10, 1, Some(soon())).unwrap();
        assert_eq!(&*read(), b"hello");
        thread::sleep(patience / 2);
        assert_eq!(reads.alive().len(), 1);
        assert_eq!(&*read(), b"hello");
        thread::sleep(patience * 3);
        assert_eq!(reads.alive().len(), 0);
    }
}
