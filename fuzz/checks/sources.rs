//! Sources: any text is a source or a one-line error. What /proc/mounts shows of one is the same
//! source without its password, and its parts are fit for the protocol.

use ftpsfs::mount::source::{Source, parse};

pub fn check(data: &[u8]) {
    let source = match parse(data) {
        Ok(source) => source,
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains(char::is_control), "{line}");
            return;
        }
    };
    assert!(!source.host.is_empty() && !source.host.contains(|c: char| c.is_control() || c == '/'));
    assert_ne!(source.port, Some(0));
    let secrets = [
        source.user.as_deref(),
        source.password.as_ref().map(|password| password.expose()),
    ];
    for text in secrets.into_iter().flatten() {
        assert!(!text.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')));
    }
    let label = source.label.clone();
    let expected = Source {
        password: None,
        ..source
    };
    assert_eq!(parse(&label), Ok(expected));
}
