//! From TLS to ready: what each command of the login may be answered.

use super::*;

#[test]
fn login_refused() {
    let cases: [(&[_], _); 5] = [
        (
            &[
                ("PASS ****", "530 Login incorrect\r\n"),
                ("PBSZ 0", "503 ?\r\n"),
            ],
            530,
        ),
        (
            &[
                ("USER me", "530 Not you\r\n"),
                ("PASS ****", "503 USER first\r\n"),
            ],
            530,
        ),
        (&[("USER me", "500 ?\r\n")], 500),
        (&[("PASS ****", "430 Bad\r\n")], 430),
        // The login was none after all.
        (
            &[
                ("USER me", "230 In\r\n"),
                ("PASS ****", "503 ?\r\n"),
                ("TYPE I", "530 No\r\n"),
            ],
            530,
        ),
    ];
    for pipeline in [true, false] {
        for (special, code) in cases {
            let mut wire = Wire::new(Login {
                pipeline,
                ..login(Security::Explicit)
            });
            match wire.connect(answering(Security::Explicit, special)) {
                Err(NegotiationError::Login(reply)) => assert_eq!(reply.code.as_u16(), code),
                other => panic!("{special:?}: {other:?}"),
            }
        }
    }
}

#[test]
fn user_alone_may_be_enough() {
    // Pipelined, PASS is written already: no answer to it matters.
    for pass in [
        "202 Superfluous\r\n",
        "230 In\r\n",
        "503 ?\r\n",
        "530 No\r\n",
        "331 ?\r\n",
    ] {
        let mut wire = Wire::new(login(Security::Explicit));
        let mut other = agreeable(Security::Explicit);
        let result = wire.connect(|met| match met {
            Met::Command("USER me") => "230 In\r\n",
            Met::Command("PASS ****") => pass,
            met => other(met),
        });
        result.expect("ready");
    }
    // One at a time, it is not written.
    for user in ["230 In\r\n", "232 In by certificate\r\n"] {
        let mut wire = Wire::new(Login {
            pipeline: false,
            ..login(Security::Implicit)
        });
        let mut other = agreeable(Security::Implicit);
        let result = wire.connect(|met| match met {
            Met::Command("USER me") => user,
            met => other(met),
        });
        result.expect("ready");
        assert_eq!(wire.trace, ["(tls)", "USER me", "FEAT", "TYPE I"]);
    }
}

/// Refuses everything but ACCT until that has come.
fn wanting_account(
    after: &'static str,
    meanwhile: &'static str,
) -> impl FnMut(Met) -> &'static str {
    let mut other = agreeable(Security::Explicit);
    let mut logged_in = false;
    let mut asked = false;
    move |met| match met {
        Met::Command("ACCT ****") => {
            logged_in = true;
            "230 In\r\n"
        }
        Met::Command(line) if line == after => {
            asked = true;
            "332 Need account\r\n"
        }
        Met::Command(line) if asked && !logged_in && !line.starts_with("AUTH") => meanwhile,
        met => other(met),
    }
}

#[test]
fn account_on_332() {
    let account = Some(Secret::new("sales"));
    for (after, meanwhile) in [("PASS ****", "530 No\r\n"), ("USER me", "503 No\r\n")] {
        let login = Login {
            account: account.clone(),
            ..login(Security::Explicit)
        };
        let mut wire = Wire::new(login.clone());
        let ready = wire
            .connect(wanting_account(after, meanwhile))
            .expect("ready");
        // What was refused for want of the account is asked again with it.
        let again = "ACCT **** | PBSZ 0 | PROT P | FEAT | TYPE I";
        assert_eq!(wire.trace, ["AUTH TLS", "(tls)", LOGIN, again]);
        assert!(ready.features.has("SIZE"));

        let mut wire = Wire::new(Login {
            pipeline: false,
            ..login
        });
        wire.connect(wanting_account(after, meanwhile))
            .expect("ready");
        let asked: &[&str] = if after == "USER me" {
            &["USER me"]
        } else {
            &["USER me", "PASS ****"]
        };
        let rest = &["ACCT ****", "PBSZ 0", "PROT P", "FEAT", "TYPE I"][..];
        assert_eq!(wire.trace[2..], [asked, rest].concat());
    }
}

#[test]
fn account_that_turns_out_not_to_be_needed() {
    let mut wire = Wire::new(Login {
        account: Some(Secret::new("sales")),
        ..login(Security::Explicit)
    });
    let special = &[("USER me", "332 Need account\r\n"), ("FEAT", "500 No\r\n")];
    wire.connect(answering(Security::Explicit, special))
        .expect("ready");
    assert_eq!(wire.trace, ["AUTH TLS", "(tls)", LOGIN]);
}

#[test]
fn account_wanted_and_none_given() {
    for pipeline in [true, false] {
        for after in ["USER me", "PASS ****"] {
            let mut wire = Wire::new(Login {
                pipeline,
                ..login(Security::Explicit)
            });
            let result = wire.connect(wanting_account(after, "530 No\r\n"));
            let words = Reply::new(332, "Need account");
            assert_eq!(result, Err(NegotiationError::Login(words)));
        }
    }
}

#[test]
fn account_refused() {
    let mut wire = Wire::new(Login {
        account: Some(Secret::new("sales")),
        ..login(Security::Explicit)
    });
    let special = &[
        ("PASS ****", "332 Need account\r\n"),
        ("ACCT ****", "532 Not that\r\n"),
    ];
    let result = wire.connect(answering(Security::Explicit, special));
    assert_eq!(
        result,
        Err(NegotiationError::Login(Reply::new(532, "Not that")))
    );
}

#[test]
fn protection_refused() {
    for pipeline in [true, false] {
        let refused = |special| {
            let mut wire = Wire::new(Login {
                pipeline,
                ..login(Security::Explicit)
            });
            wire.connect(answering(Security::Explicit, special))
        };
        let words = Reply::new(534, "Policy");
        let result = refused(&[("PROT P", "534 Policy\r\n")]);
        assert_eq!(result, Err(NegotiationError::NoProtection(words)));
        let words = Reply::new(500, "PBSZ?");
        let result = refused(&[
            ("PBSZ 0", "500 PBSZ?\r\n"),
            ("PROT P", "503 PBSZ first\r\n"),
        ]);
        assert_eq!(result, Err(NegotiationError::NoProtection(words)));
        // Protected all the same.
        refused(&[("PBSZ 0", "500 PBSZ?\r\n")]).expect("ready");
    }
}

#[test]
fn host_is_settled_before_the_password_is_sent() {
    let with_host = || Login {
        host: Some("files.example".into()),
        ..login(Security::Implicit)
    };
    for reply in ["220 That's me\r\n", "500 ?\r\n", "502 ?\r\n"] {
        let mut wire = Wire::new(with_host());
        let mut other = agreeable(Security::Implicit);
        let result = wire.connect(|met| match met {
            Met::Command("HOST files.example") => reply,
            met => other(met),
        });
        result.expect("ready");
        assert_eq!(wire.trace, ["(tls)", "HOST files.example", IMPLICIT_LOGIN]);
    }
    let mut wire = Wire::new(with_host());
    let special = &[("HOST files.example", "504 Unknown host\r\n")];
    let result = wire.connect(answering(Security::Implicit, special));
    assert_eq!(
        result,
        Err(NegotiationError::Login(Reply::new(504, "Unknown host")))
    );
    assert_eq!(wire.trace, ["(tls)", "HOST files.example"]);
}

#[test]
fn options_by_what_is_listed() {
    for (feat, options, utf8) in [
        ("211 No features\r\n", None, false),
        ("500 ?\r\n", None, false),
        ("530 Log in first\r\n", None, false),
        ("211-F\r\n UTF8\r\n211 E\r\n", Some("OPTS UTF8 ON"), true),
        (
            "211-F\r\n CLNT\r\n UTF8\r\n211 E\r\n",
            Some("CLNT ftpsfs | OPTS UTF8 ON"),
            true,
        ),
        ("211-F\r\n MLST Type*;Size*;lang;\r\n211 E\r\n", None, false),
        (
            "211-F\r\n MLST lang*;unix.mode;unix.uid;Size*;Type*;\r\n UTF8\r\n211 E\r\n",
            Some("OPTS UTF8 ON | OPTS MLST Type;Size;unix.mode;unix.uid;"),
            true,
        ),
    ] {
        let mut wire = Wire::new(login(Security::Explicit));
        let mut other = agreeable(Security::Explicit);
        let result = wire.connect(|met| match met {
            Met::Command("FEAT") => feat,
            // Whether they are taken does not matter.
            Met::Command(line) if line.starts_with("OPTS") => "504 Always on\r\n",
            met => other(met),
        });
        assert_eq!(result.expect("ready").utf8, utf8);
        let expected = [Some("AUTH TLS"), Some("(tls)"), Some(LOGIN), options];
        assert_eq!(
            wire.trace,
            expected.into_iter().flatten().collect::<Vec<_>>()
        );
    }
}

#[test]
fn no_ready_without_binary_type() {
    let mut wire = Wire::new(login(Security::Implicit));
    let result = wire.connect(answering(Security::Implicit, &[("TYPE I", "504 No\r\n")]));
    assert_eq!(
        result,
        Err(NegotiationError::Unexpected(Reply::new(504, "No")))
    );
}

#[test]
fn long_names_are_written_in_several_writes() {
    let user = vec![b'u'; 700];
    let password = Secret::new(vec![b'p'; 700]);
    let mut wire = Wire::new(Login {
        user,
        password,
        ..login(Security::Implicit)
    });
    wire.connect(agreeable(Security::Implicit)).expect("ready");
    assert_eq!(wire.trace.len(), 3);
    assert_eq!(wire.trace[2], "PASS **** | FEAT | TYPE I");
}

#[test]
fn options_that_another_connection_was_offered_go_along() {
    let listed = "211-F\r\n UTF8\r\n211 E\r\n";
    let known = |wire: &str| Some(Features::parse(&replies(wire)[0]));
    for (features, follows) in [
        (known(listed), vec![]),
        (None, vec!["OPTS UTF8 ON"]),
        (known("211-F\r\n CLNT\r\n211 E\r\n"), vec!["OPTS UTF8 ON"]),
    ] {
        let along = match &features {
            Some(known) if known.has("UTF8") => " | OPTS UTF8 ON",
            Some(_) => " | CLNT ftpsfs",
            None => "",
        };
        let mut wire = Wire::new(Login {
            features,
            ..login(Security::Implicit)
        });
        let ready = wire.connect(answering(
            Security::Implicit,
            &[("FEAT", "211-F\r\n UTF8\r\n211 E\r\n")],
        ));
        assert!(ready.expect("ready").utf8);
        let first = format!("USER me | PASS **** | FEAT | TYPE I{along}");
        let expected: Vec<_> = std::iter::once(first.as_str()).chain(follows).collect();
        assert_eq!(wire.trace[1..], expected);
    }
}

#[test]
fn a_server_known_to_lose_commands_is_told_them_one_by_one() {
    for greeting in [
        "220 Microsoft FTP Service\r\n",
        "220-Hi\r\n220 MikroTik FTP server\r\n",
    ] {
        let mut other = agreeable(Security::Implicit);
        let mut wire = Wire::new(login(Security::Implicit));
        let ready = wire.connect(move |met| match other(met) {
            "220 Hello\r\n" => greeting,
            reply => reply,
        });
        ready.expect("ready");
        assert_eq!(
            wire.trace,
            ["(tls)", "USER me", "PASS ****", "FEAT", "TYPE I"]
        );
    }
}
