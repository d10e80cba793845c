//! FEAT (RFC 2389 section 3).

use super::Reply;

/// What FEAT listed. Lines are kept as sent; matching ignores case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    lines: Vec<Vec<u8>>,
}

impl Features {
    /// From a 211 reply; tolerates lines prefixed by `211-` or without the leading space.
    /// Any other code gives the empty set.
    pub fn parse(reply: &Reply) -> Self {
        // The first and the last line frame the list. (The reply parser took a `211-` away.)
        let framed = match reply.lines.as_slice() {
            [_, lines @ .., _] if reply.code.as_u16() == 211 => lines,
            _ => &[],
        };
        let lines = framed.iter().map(|line| line.trim_ascii().to_vec());
        Self {
            lines: lines.filter(|line| !line.is_empty()).collect(),
        }
    }

    /// The arguments of a feature label, `None` where it is not listed:
    /// `feature("REST")` is `Some(b"STREAM")`. Of several lines with that label, the first.
    pub fn feature(&self, label: &str) -> Option<&[u8]> {
        self.all(label).next()
    }

    /// The arguments of every line with that label: ProFTPD lists `SITE UTIME`, `SITE SYMLINK`
    /// and vsftpd `AUTH TLS`, `AUTH SSL` on lines of their own.
    pub fn all(&self, label: &str) -> impl Iterator<Item = &[u8]> {
        self.lines.iter().filter_map(move |line| {
            let end = line
                .iter()
                .position(u8::is_ascii_whitespace)
                .unwrap_or(line.len());
            let (listed, arguments) = line.split_at(end);
            listed
                .eq_ignore_ascii_case(label.as_bytes())
                .then(|| arguments.trim_ascii())
        })
    }

    /// The lines, as they may be shown.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.lines
            .iter()
            .map(|line| line.escape_ascii().to_string())
    }

    /// Whether the label is listed.
    pub fn has(&self, label: &str) -> bool {
        self.feature(label).is_some()
    }

    /// MLST's facts in the server's order and spelling, with whether each is on (`*`).
    pub fn mlst_facts(&self) -> Vec<(String, bool)> {
        let facts = self.feature("MLST").unwrap_or_default();
        let named = facts
            .split(|&b| b == b';')
            .map(<[u8]>::trim_ascii)
            .map(|fact| match fact.strip_suffix(b"*") {
                Some(name) => (String::from_utf8_lossy(name).into_owned(), true),
                None => (String::from_utf8_lossy(fact).into_owned(), false),
            });
        named.filter(|(name, _)| !name.is_empty()).collect()
    }

    /// Server side: the lines in order, after `211-Extended features supported:` and before
    /// `211 END`.
    pub fn reply<S: AsRef<str>>(lines: &[S]) -> Reply {
        let mut reply = Reply::new(211, "Extended features supported:");
        reply.lines.extend(
            lines
                .iter()
                .map(|line| format!(" {}", line.as_ref()).into_bytes()),
        );
        reply.lines.push(b"END".to_vec());
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::super::ReplyParser;
    use super::*;
    use proptest::prelude::*;

    fn received(wire: &[u8]) -> Features {
        let mut parser = ReplyParser::new();
        parser.push(wire);
        Features::parse(&parser.next().expect("a reply").expect("a whole one"))
    }

    #[test]
    fn a_list_as_proftpd_sends_it() {
        let features = received(
            b"211-Features:\r\n AUTH TLS\r\n EPSV\r\n \
            MLST modify*;perm*;size*;type*;unique*;UNIX.group;\r\n REST STREAM\r\n \
            SITE UTIME\r\n SITE SYMLINK\r\n UTF8\r\n211 End\r\n",
        );
        assert_eq!(features.feature("rest"), Some(&b"STREAM"[..]));
        assert_eq!(features.feature("UTF8"), Some(&b""[..]));
        assert_eq!(features.feature("MFMT"), None);
        assert!(features.has("auth") && !features.has("AUT") && !features.has("End"));
        let site: Vec<_> = features.all("SITE").collect();
        assert_eq!(site, [&b"UTIME"[..], b"SYMLINK"]);
        let facts = features.mlst_facts();
        let on: Vec<_> = facts
            .iter()
            .filter(|(_, on)| *on)
            .map(|(name, _)| &**name)
            .collect();
        assert_eq!(on, ["modify", "perm", "size", "type", "unique"]);
        assert_eq!(facts.last(), Some(&("UNIX.group".to_owned(), false)));
    }

    #[test]
    fn prefixed_or_unindented_lines() {
        for wire in [
            &b"211-Extensions supported\r\n211-SIZE\r\n211-MDTM\r\n211 End\r\n"[..],
            b"211-Extensions supported\r\n211- SIZE\r\n211- MDTM\r\n211 End\r\n",
            b"211-Extensions supported\nSIZE\nMDTM \n\n211 End\n",
            b"211-Extensions supported\r\n\tsize\r\n   mdtm\r\n211\r\n",
        ] {
            let features = received(wire);
            assert!(
                features.has("SIZE") && features.has("MDTM"),
                "{}",
                wire.escape_ascii()
            );
            assert_eq!(features.lines.len(), 2);
        }
    }

    #[test]
    fn no_list_is_an_empty_set() {
        for wire in [
            &b"211 No features\r\n"[..],
            b"500 What?\r\n",
            b"530-Log\r\n SIZE\r\n530 in\r\n",
            b"211-Features:\r\n211 End\r\n",
        ] {
            assert_eq!(received(wire), Features::default());
        }
        assert_eq!(Features::default().mlst_facts(), []);
    }

    #[test]
    fn the_specifications_example() {
        let lines = ["LANG EN*", "UTF8", "AUTH TLS;SSL;", "PBSZ"];
        let wire = Features::reply(&lines).encode();
        let expected = "211-Extended features supported:\r\n LANG EN*\r\n UTF8\r\n \
            AUTH TLS;SSL;\r\n PBSZ\r\n211 END\r\n";
        assert_eq!(
            wire.escape_ascii().to_string(),
            expected.as_bytes().escape_ascii().to_string()
        );
    }

    proptest! {
        #[test]
        fn what_a_server_lists_is_what_a_client_sees(
            labels in proptest::collection::vec("[A-Z]{3,5}", 0..10),
            arguments in "[a-z0-9;*.]{0,20}",
        ) {
            let lines: Vec<_> = labels.iter().map(|label| format!("{label} {arguments}")).collect();
            let features = received(&Features::reply(&lines).encode());
            for label in &labels {
                prop_assert_eq!(features.feature(label), Some(arguments.as_bytes()));
            }
            prop_assert_eq!(features.has("ZZZZZZ"), false);
        }

        #[test]
        fn arbitrary_lists_never_panic(lines: Vec<Vec<u8>>) {
            let mut reply = Reply::new(211, "");
            reply.lines = lines;
            let features = Features::parse(&reply);
            let _ = (features.mlst_facts(), features.has("MLST"));
        }
    }
}
