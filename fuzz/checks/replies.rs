//! Replies: how the bytes are cut into reads does not matter, and what is understood can be sent
//! on. The first byte is the size of the reads.

use ftpsfs::proto::{Reply, ReplyError, ReplyParser, parse_257};

fn parse(wire: &[u8], size: usize) -> (Vec<Reply>, Option<ReplyError>) {
    let mut parser = ReplyParser::new();
    // Small enough for the fuzzer to reach.
    parser.set_limit(2000);
    let mut replies = Vec::new();
    for piece in wire.chunks(size) {
        parser.push(piece);
        loop {
            match parser.next() {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(parser.next(), Err(error), "an error is final");
                    assert!(!parser.is_empty());
                    return (replies, Some(error));
                }
            }
        }
    }
    (replies, None)
}

pub fn check(data: &[u8]) {
    let Some((&size, wire)) = data.split_first() else {
        return;
    };
    let (replies, error) = parse(wire, usize::from(size) + 1);
    assert_eq!(
        (&replies, &error),
        (&parse(wire, wire.len().max(1)).0, &parse(wire, 1).1)
    );
    for reply in replies {
        assert!(!reply.lines.is_empty());
        assert!(reply.to_string().chars().count() <= 300);
        if let Some(path) = parse_257(&reply) {
            assert!(!path.is_empty());
        }
        let clean = |line: &Vec<u8>| !line.iter().any(|b| matches!(b, 0 | b'\r' | b'\n'));
        let sent = reply.encode();
        let mut parser = ReplyParser::new();
        parser.push(&sent);
        let received = parser.next().expect("our own reply").expect("a whole one");
        assert!(parser.is_empty());
        assert_eq!(received.lines.len(), reply.lines.len());
        if reply.lines.iter().all(clean) {
            assert_eq!(received, reply);
        }
    }
}
