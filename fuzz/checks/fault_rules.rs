//! Fault rules: any text is a list of rules or a one-line error, and what is shown of a rule is
//! read as the same rule.

use ftpsfs::server::Rules;

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match text.parse::<Rules>() {
        Ok(rules) => {
            let shown: Vec<_> = rules.0.iter().map(ToString::to_string).collect();
            assert_eq!(shown.join("\n").parse::<Rules>().as_ref(), Ok(&rules));
            assert_eq!(shown.join(";").parse::<Rules>(), Ok(rules));
        }
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
}
