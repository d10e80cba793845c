//! FEAT: what is listed is found, in any spelling; and a list that we send is the list received.

use ftpsfs::proto::{Features, ReplyParser};

fn received(wire: &[u8]) -> Option<Features> {
    let mut parser = ReplyParser::new();
    parser.push(wire);
    parser
        .next()
        .ok()
        .flatten()
        .map(|reply| Features::parse(&reply))
}

pub fn check(data: &[u8]) {
    let wire = [b"211-Features:\r\n", data, b"\r\n211 End\r\n"].concat();
    if let Some(features) = received(&wire) {
        for (name, _) in features.mlst_facts() {
            assert!(!name.is_empty() && !name.contains(';'));
        }
        assert_eq!(features.has("mlst"), features.feature("MLST").is_some());
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let lines: Vec<_> = text
        .split(['\0', '\r', '\n'])
        .map(str::trim_ascii)
        .filter(|line| !line.is_empty())
        .collect();
    let features = received(&Features::reply(&lines).encode()).expect("our own reply");
    for line in lines {
        let label = line.split_ascii_whitespace().next().expect("a label");
        assert!(
            features.has(label) && features.has(&label.to_ascii_lowercase()),
            "{label}"
        );
    }
}
