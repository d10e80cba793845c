//! The syntax of `-o`: `name,name=value,...`, as mount(8) reads it. Knows no option by name.

/// One piece of an option string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub name: Vec<u8>,
    /// What stood behind the first `=`, unescaped.
    pub value: Option<Vec<u8>>,
}

/// A value that opens with `"` and never closes, or goes on behind the closing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unbalanced quotes in the mount options")]
pub struct UnbalancedQuotes;

/// Splits at commas. A backslash takes the meaning from a following comma, quote or backslash
/// (before anything else it stands for itself: `DOMAIN\user`), and a value in double quotes may
/// hold commas. Empty pieces vanish.
pub fn split(text: &[u8]) -> Result<Vec<Item>, UnbalancedQuotes> {
    let mut items = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = take_until(rest, b",=");
        rest = after;
        let mut value = None;
        if let Some(after_equals) = rest.strip_prefix(b"=") {
            let (taken, after) = match after_equals.strip_prefix(b"\"") {
                Some(quoted) => take_quoted(quoted)?,
                None => take_until(after_equals, b","),
            };
            value = Some(taken);
            rest = after;
        }
        rest = rest.strip_prefix(b",").unwrap_or(rest);
        if !name.is_empty() || value.is_some() {
            items.push(Item { name, value });
        }
    }
    Ok(items)
}

/// Writes items so that [`split`] gives them back.
pub fn join(items: &[Item]) -> Vec<u8> {
    let mut text = Vec::new();
    for item in items {
        if !text.is_empty() {
            text.push(b',');
        }
        escape_into(&mut text, &item.name);
        if let Some(value) = &item.value {
            text.push(b'=');
            escape_into(&mut text, value);
        }
    }
    text
}

/// Puts a backslash before every comma, quote and backslash.
pub fn escape_into(text: &mut Vec<u8>, value: &[u8]) {
    for &byte in value {
        if is_special(byte) {
            text.push(b'\\');
        }
        text.push(byte);
    }
}

/// Everything before the first of `stops` that no backslash precedes, unescaped, and the rest.
fn take_until<'a>(text: &'a [u8], stops: &[u8]) -> (Vec<u8>, &'a [u8]) {
    let mut taken = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match text.get(at + 1) {
            Some(&next) if byte == b'\\' && is_special(next) => {
                taken.push(next);
                at += 2;
            }
            _ if stops.contains(&byte) => break,
            _ => {
                taken.push(byte);
                at += 1;
            }
        }
    }
    (taken, &text[at..])
}

/// A quoted value (its opening quote is gone), and what follows the closing quote.
fn take_quoted(text: &[u8]) -> Result<(Vec<u8>, &[u8]), UnbalancedQuotes> {
    let (value, rest) = take_until(text, b"\"");
    let rest = rest.strip_prefix(b"\"").ok_or(UnbalancedQuotes)?;
    match rest.first() {
        None | Some(b',') => Ok((value, rest)),
        Some(_) => Err(UnbalancedQuotes),
    }
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b',' | b'"' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> Vec<String> {
        let show = |item: &Item| {
            let name = String::from_utf8_lossy(&item.name).into_owned();
            match &item.value {
                Some(value) => format!("{name} -> {}", String::from_utf8_lossy(value)),
                None => name,
            }
        };
        split(text.as_bytes()).unwrap().iter().map(show).collect()
    }

    #[test]
    fn commas_split_unless_escaped_or_quoted() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            (",,", &[]),
            ("ro", &["ro"]),
            ("ro,port=990", &["ro", "port -> 990"]),
            ("a=", &["a -> "]),
            ("a=b=c", &["a -> b=c"]),
            (r"p=x\,y,b", &["p -> x,y", "b"]),
            (r#"p="x,y",b"#, &["p -> x,y", "b"]),
            (r#"p="x\"y""#, &[r#"p -> x"y"#]),
            (r#"p=x"y,b"#, &[r#"p -> x"y"#, "b"]),
            (
                r"username=DOMAIN\user,ro",
                &[r"username -> DOMAIN\user", "ro"],
            ),
            (r"p=a\\,b", &[r"p -> a\", "b"]),
            (r"p=a\", &[r"p -> a\"]),
            ("=x", &[" -> x"]),
        ];
        for (text, expected) in table {
            assert_eq!(shown(text), *expected, "{text}");
        }
    }

    #[test]
    fn quotes_must_balance() {
        for text in [r#"p="x"#, r#"p="x"y"#, r#"a,p=""x"#, r#"p="x\""#] {
            assert_eq!(split(text.as_bytes()), Err(UnbalancedQuotes), "{text}");
        }
    }

    proptest! {
        #[test]
        fn join_and_split_are_inverse(items in prop::collection::vec(
            (prop::collection::vec(any::<u8>().prop_filter("no =", |b| *b != b'='), 1..8),
             prop::option::of(prop::collection::vec(any::<u8>(), 0..12))), 0..6)) {
            let items: Vec<Item> =
                items.into_iter().map(|(name, value)| Item { name, value }).collect();
            prop_assert_eq!(split(&join(&items)).unwrap(), items);
        }

        #[test]
        fn anything_may_be_split(text in prop::collection::vec(
            prop::sample::select(b"ab=,\"\\".to_vec()), 0..24)) {
            if let Ok(items) = split(&text) {
                prop_assert_eq!(split(&join(&items)).unwrap(), items);
            }
        }
    }
}
