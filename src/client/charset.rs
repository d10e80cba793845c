//! [`Charset`]: names of files on servers that are not UTF-8. Commands are written in the server's
//! character set, replies and listings read from it; above this nobody knows.

use std::borrow::Cow;

use encoding_rs::{Decoder, Encoding, UTF_8};

/// `charset=`. Line ends and digits are in every one what they are in ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charset(&'static Encoding);

impl Charset {
    /// By any of its names (`latin1`, `windows-1251`, `shift_jis`). UTF-8 is what holds without.
    pub fn parse(name: &str) -> Option<Self> {
        let encoding = Encoding::for_label(name.as_bytes())?;
        let fits = encoding.is_ascii_compatible() && encoding != UTF_8;
        fits.then_some(Self(encoding))
    }

    /// As the server wants it; `None` where its set lacks a character, or it is not UTF-8 here.
    pub fn encode<'a>(&self, bytes: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (encoded, _, lacks) = self.0.encode(text);
        (!lacks).then_some(encoded)
    }

    /// A whole text from the server. What makes no sense becomes U+FFFD.
    pub fn decode(&self, bytes: &[u8]) -> Vec<u8> {
        let (text, _) = self.0.decode_without_bom_handling(bytes);
        text.into_owned().into_bytes()
    }

    /// For a text that comes in pieces.
    pub(super) fn decoder(&self) -> Decoding {
        Decoding(self.0.new_decoder_without_bom_handling())
    }
}

/// A text on its way from a server.
pub(super) struct Decoding(Decoder);

impl Decoding {
    pub(super) fn decode(&mut self, piece: &[u8]) -> Vec<u8> {
        let most = self.0.max_utf8_buffer_length(piece.len());
        let mut text = vec![0; most.unwrap_or(piece.len().saturating_mul(4))];
        let (_, _, written, _) = self.0.decode_to_utf8(piece, &mut text, false);
        text.truncate(written);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        let names = [
            ("latin1", "grüße", &b"gr\xfc\xdfe"[..]),
            ("windows-1251", "файл", b"\xf4\xe0\xe9\xeb"),
            ("shift_jis", "表", b"\x95\x5c"),
            ("gbk", "文件", b"\xce\xc4\xbc\xfe"),
        ];
        for (charset, name, encoded) in names {
            let charset = Charset::parse(charset).unwrap();
            assert_eq!(charset.encode(name.as_bytes()).unwrap(), encoded);
            assert_eq!(charset.decode(encoded), name.as_bytes());
            let mut decoding = charset.decoder();
            let pieces: Vec<u8> = encoded
                .iter()
                .flat_map(|b| decoding.decode(&[*b]))
                .collect();
            assert_eq!(pieces, name.as_bytes(), "in pieces");
        }
        let latin = Charset::parse("iso-8859-1").unwrap();
        assert_eq!(latin.encode("файл".as_bytes()), None);
        assert_eq!(latin.encode(b"\xff"), None);
        for refused in ["utf-8", "utf-16", "nonsense", ""] {
            assert_eq!(Charset::parse(refused), None, "{refused}");
        }
    }
}
