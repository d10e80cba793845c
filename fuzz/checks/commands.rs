//! Commands: whatever a server understands is one line on the wire, and is understood alike
//! after a trip over it.

use ftpsfs::proto::Command;

fn trip(command: &Command) -> Command {
    let wire = command.encode();
    let line = wire.strip_suffix(b"\r\n").expect("a line end");
    assert!(
        !line.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')),
        "more than one line"
    );
    assert!(line.starts_with(command.verb().as_bytes()));
    Command::decode(line).expect("our own line")
}

pub fn check(line: &[u8]) {
    let Ok(command) = Command::decode(line) else {
        return;
    };
    assert!(command.to_string().is_ascii());
    // Fractions of seconds are lost on the first trip.
    let once = trip(&command);
    assert_eq!(once.verb(), command.verb());
    assert_eq!(trip(&once), once);
}
