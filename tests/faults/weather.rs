//! Random faults out of all that the server has, but those that no client could see through: a
//! command carried out and refused in the same breath, a file that is said not to be there, a
//! listing cut at a line end.

use super::dice::Dice;

/// Faults for a while.
pub struct Weather {
    /// As the server takes them.
    pub rules: String,
    /// Kinds of faults among them.
    pub kinds: Vec<&'static str>,
}

/// What breaks a connection or a moment of it, and passes.
const BREAKS: [&str; 8] = [
    "fin",
    "rst",
    "stall",
    "stall 300ms",
    "drip 1ms",
    "fin",
    "rst",
    "stall",
];

/// What a server that is in its right mind does not do.
const VIOLATIONS: [(&str, &str); 24] = [
    ("command", "mute"),
    ("command", "split"),
    ("command", "join"),
    ("command", "endless-reply"),
    ("command", "endless-line"),
    ("control sent record", "send \"clear\""),
    ("control sent record", "forged-close-notify"),
    ("data sent record", "forged-close-notify"),
    ("data received record", "forged-close-notify"),
    ("data sent byte", "send \"clear\""),
    ("RETR", "cut 1"),
    ("RETR", "cut 3001"),
    ("RETR", "no-close-notify"),
    ("STOR", "no-close-notify"),
    ("STOR", "no-resumption 522"),
    ("RETR", "no-resumption 425"),
    ("STOR", "full 1"),
    ("STOR", "full 9000 552"),
    ("STOR", "full 5000 226"),
    ("APPE", "full 3 226"),
    ("EPSV", "closed-port"),
    ("EPSV", "silent-port"),
    ("MLSD", "no-close-notify"),
    ("MLSD", "line \"type=file;size=1; ../evil\""),
];

/// A few faults at once. `passing`: only such as `hard` waits out.
pub fn random(dice: &mut Dice, passing: bool) -> Weather {
    let mut rules = Vec::new();
    let mut kinds = Vec::new();
    for _ in 0..1 + dice.below(3) {
        let (event, what) = match dice.below(if passing { 6 } else { 11 }) {
            0..=3 => (place(dice), dice.one_of(&BREAKS)),
            4 => (place_of_connections(dice), dice.one_of(&BREAKS[..4])),
            5 => ("command", "reply \"421 Going down\""),
            _ => dice.one_of(&VIOLATIONS),
        };
        let most = match event {
            "command" => 60,
            "connect" | "connect over 1" => 3,
            "reply byte" => 4000,
            "data sent byte" => 200_000,
            "control sent record" | "control received record" => 80,
            "data sent record" | "data received record" => 40,
            _ => 6,
        };
        let first = 1 + dice.below(most);
        let times = dice.one_of(&["", "", " x2", " x3", " x10", " always"]);
        let each = match event {
            "connect" | "connect over 1" => "",
            _ => dice.one_of(&["", "", " each"]),
        };
        let (event, over) = match event {
            "connect over 1" => ("connect", " over 1"),
            event => (event, ""),
        };
        rules.push(format!("{event} {first}{times}{each}{over}: {what}"));
        kinds.push(what);
    }
    Weather {
        rules: rules.join("; "),
        kinds,
    }
}

fn place(dice: &mut Dice) -> &'static str {
    dice.one_of(&[
        "command",
        "reply byte",
        "control sent record",
        "control received record",
        "data sent record",
        "data received record",
        "data sent byte",
    ])
}

fn place_of_connections(dice: &mut Dice) -> &'static str {
    dice.one_of(&["connect", "connect over 1"])
}

#[test]
fn every_weather_is_rules() {
    let mut dice = Dice::new(1);
    for round in 0..2000 {
        let weather = random(&mut dice, round % 2 == 0);
        let parsed = weather.rules.parse::<ftpsfs::server::Rules>();
        assert!(parsed.is_ok(), "{}: {parsed:?}", weather.rules);
    }
}
