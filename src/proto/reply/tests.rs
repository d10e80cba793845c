use proptest::prelude::*;

use super::*;

fn parse(wire: &[u8]) -> Result<Vec<Reply>, ReplyError> {
    parse_in_pieces(wire, wire.len().max(1))
}

fn parse_in_pieces(wire: &[u8], size: usize) -> Result<Vec<Reply>, ReplyError> {
    let mut parser = ReplyParser::new();
    let mut replies = Vec::new();
    for piece in wire.chunks(size) {
        parser.push(piece);
        while let Some(reply) = parser.next()? {
            replies.push(reply);
        }
    }
    Ok(replies)
}

fn reply(code: u16, lines: &[&str]) -> Reply {
    let lines = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    Reply {
        code: Code::new(code).expect("a code"),
        lines,
    }
}

#[test]
fn replies_as_servers_send_them() {
    for (wire, code, lines) in [
        ("220 Hello\r\n", 220, &["Hello"][..]),
        ("220 Hello\n", 220, &["Hello"]),
        ("200 \r\n", 200, &[""]),
        ("200\r\n", 200, &[""]),
        ("220-a\r\n220 b\r\n", 220, &["a", "b"]),
        ("220-\r\n220-b\r\n220 c\r\n", 220, &["", "b", "c"]),
        ("220-a\nb\n220 c\n", 220, &["a", "b", "c"]),
        // Other digits between (RFC 959 4.2's example), and nearly the code.
        (
            "123-First\r\nSecond\r\n  234 A line\r\n123 Last\r\n",
            123,
            &["First", "Second", "  234 A line", "Last"],
        ),
        (
            "211-a\r\n226 b\r\n226-c\r\n2110 d\r\n211x\r\n211 e\r\n",
            211,
            &["a", "226 b", "226-c", "2110 d", "211x", "e"],
        ),
        // A server that cuts spaces off.
        ("211-a\r\n211\r\n", 211, &["a", ""]),
        // Listings keep their spaces, and only one prefix goes.
        (
            "213-Status\r\n -rw x \r\n213--rw y \r\n213-213-z\r\n213 End\r\n",
            213,
            &["Status", " -rw x ", "-rw y ", "213-z", "End"],
        ),
    ] {
        for size in [1, 3, 1000] {
            let expected = vec![reply(code, lines)];
            assert_eq!(
                parse_in_pieces(wire.as_bytes(), size),
                Ok(expected),
                "{wire:?}"
            );
        }
    }
}

#[test]
fn names_in_any_encoding_stay_as_they_are() {
    let replies = parse(b"250-\r\n type=file; \xff\xfe\xe4\r\n250 End\r\n").expect("a reply");
    assert_eq!(replies[0].lines[1], b" type=file; \xff\xfe\xe4");
}

#[test]
fn unfinished_replies_are_waited_for() {
    let mut parser = ReplyParser::new();
    assert!(parser.is_empty());
    for piece in ["2", "2", "0", "-", "x\r", "\n220 ", "\r"] {
        parser.push(piece.as_bytes());
        assert_eq!(parser.next(), Ok(None));
        assert!(!parser.is_empty());
    }
    parser.push(b"\n331 y\r\n");
    assert_eq!(parser.next(), Ok(Some(reply(220, &["x", ""]))));
    assert!(!parser.is_empty());
    assert_eq!(parser.next(), Ok(Some(reply(331, &["y"]))));
    assert!(parser.is_empty());
    // The first line of several is taken in: that is no empty parser.
    parser.push(b"220-x\r\n");
    assert_eq!(parser.next(), Ok(None));
    assert!(!parser.is_empty());
}

#[test]
fn what_is_no_reply() {
    for wire in [
        "\r\n",
        "Hello\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 400 Bad Request\r\n",
        "22\r\n",
        "220x\r\n",
        "2200 x\r\n",
        "099 x\r\n",
        "600 x\r\n",
        " 220 x\r\n",
        "200 OK\r\nHello\r\n",
    ] {
        assert_eq!(
            parse(wire.as_bytes()),
            Err(ReplyError::Malformed),
            "{wire:?}"
        );
    }
    let mut parser = ReplyParser::new();
    parser.push(b"what?\r\n220 Hello\r\n");
    assert_eq!(parser.next(), Err(ReplyError::Malformed));
    assert_eq!(
        parser.next(),
        Err(ReplyError::Malformed),
        "an error is final"
    );
    assert!(!parser.is_empty());
}

#[test]
fn lines_are_bounded() {
    let most = [b"220 ".to_vec(), vec![b'x'; ReplyParser::MAX_LINE - 4]].concat();
    let too_long = ReplyError::LineTooLong(ReplyParser::MAX_LINE);
    for size in [1, 1000, 100_000] {
        let whole = [&most, &b"\r\n"[..]].concat();
        assert_eq!(
            parse_in_pieces(&whole, size).map(|replies| replies.len()),
            Ok(1)
        );
        let over = [&most, &b"x\r\n"[..]].concat();
        assert_eq!(parse_in_pieces(&over, size), Err(too_long));
        // One that never ends is refused before it does.
        let endless = [&most, &b"xx"[..]].concat();
        assert_eq!(parse_in_pieces(&endless, size), Err(too_long));
    }
}

#[test]
fn replies_are_bounded() {
    let mut parser = ReplyParser::new();
    parser.set_limit(1000);
    parser.push(b"211-x\r\n");
    for _ in 0..9 {
        parser.push(&[&[b'x'; 100][..], b"\r\n"].concat());
        assert_eq!(parser.next(), Ok(None));
    }
    parser.push(b"211 y\r\n200 z\r\n");
    assert_eq!(
        parser
            .next()
            .map(|reply| reply.map(|reply| reply.lines.len())),
        Ok(Some(11))
    );
    assert_eq!(
        parser.next(),
        Ok(Some(reply(200, &["z"]))),
        "each reply has the whole limit"
    );

    parser.push(&b"211-x\r\n".repeat(32));
    assert_eq!(
        parser.next(),
        Err(ReplyError::ReplyTooLong(1000)),
        "short lines count, too"
    );
}

/// A quadratic parser needs hours for this; the bound is far from both.
#[test]
fn a_long_listing_in_small_pieces_takes_linear_time() {
    let line = b"-rw-r--r--    1 1000     1000         1234 Jan 02 03:04 some-file-name\r\n";
    let body = line.repeat(ReplyParser::MAX_LISTING / 4 / line.len());
    let wire = [b"213-Status:\r\n", &body[..], b"213 End\r\n"].concat();
    let started = std::time::Instant::now();
    let mut parser = ReplyParser::new();
    parser.set_limit(ReplyParser::MAX_LISTING);
    // Pushed all at once, then drained; and a byte at a time.
    parser.push(&wire);
    let whole = parser.next().expect("a reply").expect("a whole one");
    assert_eq!(whole.lines.len(), body.len() / line.len() + 2);
    let mut last = None;
    for byte in &wire[wire.len() / 2..] {
        parser.push(&[*byte]);
        last = parser.next().unwrap_or(None).or(last);
    }
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn texts_for_people() {
    assert_eq!(
        reply(550, &["No such file"]).to_string(),
        "550 No such file"
    );
    assert_eq!(
        reply(530, &["Sorry:", " full ", ""]).to_string(),
        "530 Sorry:; full"
    );
    assert_eq!(reply(500, &[]).to_string(), "500 ");
    let nasty = Reply::new(500, b"\x1b[31m\xff\r\n");
    assert_eq!(nasty.to_string(), "500 \\u{1b}[31m\u{fffd}");
    let long = Reply::new(500, "ä".repeat(5000)).to_string();
    assert_eq!(long.chars().count(), 300);
    assert_eq!(
        Reply::new(500, "\u{1}".repeat(5000))
            .to_string()
            .chars()
            .count(),
        300
    );
}

#[test]
fn encoded_replies() {
    assert_eq!(Reply::new(220, "Hello").encode(), b"220 Hello\r\n");
    assert_eq!(
        reply(211, &["a", " b", "c"]).encode(),
        b"211-a\r\n b\r\n211 c\r\n"
    );
    // What looks like a code is no end, for any client.
    let codes = reply(211, &["a", "211 b", "550 c", "211-d", "e"]).encode();
    assert_eq!(
        codes,
        b"211-a\r\n211-211 b\r\n211-550 c\r\n211-211-d\r\n211 e\r\n"
    );
    let injected = Reply::new(257, "\"/a\r\n221 b\0\"").encode();
    assert_eq!(injected, b"257 \"/a__221 b_\"\r\n");
    assert_eq!(reply(200, &[]).encode(), b"200 \r\n");
}

#[test]
fn paths_in_257() {
    for (text, path) in [
        ("\"/\"", Some("/")),
        ("\"/\" is the current directory", Some("/")),
        ("\"/a b\" created.", Some("/a b")),
        ("\"/a\"\"b\" is the current directory", Some("/a\"b")),
        ("\"\"\"\"", Some("\"")),
        ("\"/a\" is your \"home\"", Some("/a")),
        ("Current directory: \"/x\"", Some("/x")),
        // Pure-FTPd doubles nothing.
        ("\"/a\"b\" is your current location", Some("/a\"b")),
        ("\"/a\"\" is your current location", Some("/a\"")),
        ("\"/a\" b\" is your current location", Some("/a\" b")),
        ("\"/\"a\"/b\" is your current location", Some("/\"a\"/b")),
        ("\"\"", None),
        ("\"/a", None),
        ("/a is the current directory", None),
        ("", None),
    ] {
        let found = parse_257(&Reply::new(257, text));
        assert_eq!(found, path.map(|path| path.as_bytes().to_vec()), "{text}");
    }
    assert_eq!(parse_257(&Reply::new(250, "\"/\"")), None);
}

fn any_line() -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    let nasty = "(21[0-9]|[0-9]{3})?[- ]?[ -~]{0,20}".prop_map(String::into_bytes);
    prop_oneof![bytes, nasty].prop_map(|mut line| {
        line.retain(|b| !matches!(b, 0 | b'\r' | b'\n'));
        line
    })
}

proptest! {
    #[test]
    fn encode_and_parse_are_inverses(
        code in 100u16..600,
        lines in prop::collection::vec(any_line(), 1..6),
        size in 1usize..20,
    ) {
        let reply = Reply { code: Code::new(code).expect("a code"), lines };
        let wire = [reply.encode(), reply.encode()].concat();
        prop_assert_eq!(parse_in_pieces(&wire, size), Ok(vec![reply.clone(), reply]));
    }

    #[test]
    fn the_cut_into_pieces_does_not_matter(
        lines in prop::collection::vec(any_line(), 0..12),
        size in 1usize..20,
    ) {
        let wire = lines.join(&b"\r\n"[..]);
        prop_assert_eq!(parse_in_pieces(&wire, size), parse(&wire));
    }

    #[test]
    fn doubled_quotes_come_back(path in "/[ -~]{0,30}", comment in "( [a-z. ]{0,20})?") {
        let text = format!("\"{}\"{comment}", path.replace('"', "\"\""));
        prop_assert_eq!(parse_257(&Reply::new(257, text)), Some(path.into_bytes()));
    }

    #[test]
    fn arbitrary_texts_never_panic(lines: Vec<Vec<u8>>) {
        let reply = Reply { code: Code::new(257).expect("a code"), lines };
        let _ = (parse_257(&reply), reply.to_string(), reply.encode());
    }
}

#[test]
fn a_line_feed_in_a_name_ends_no_line_and_forges_no_reply() {
    let mut parser = ReplyParser::new();
    parser
        .push(b"213-Status follows:\r\n-rw-r--r-- x\n213 End\n200 forged\r\n213 End of status\r\n");
    let reply = parser.next().unwrap().unwrap();
    assert_eq!(reply.lines.len(), 3);
    assert_eq!(reply.lines[1], b"-rw-r--r-- x\n213 End\n200 forged");
    assert_eq!(parser.next().unwrap(), None);
    assert!(parser.is_empty());
}
