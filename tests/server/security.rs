//! Every row of MS-FTPS's server role (3.2), RFC 4217's sequences, and login.

use std::time::Duration;

use ftpsfs::proto::Secret;
use ftpsfs::proto::Security::{Explicit, Implicit};
use ftpsfs::server::Users;

use crate::client::{serve, serve_with, text};

/// [MS-FTPS] 3.2.5.1.
#[test]
fn implicit_greets_only_after_the_handshake() {
    let served = serve(Implicit);
    let mut client = served.connect();
    assert!(client.is_silent());
    client.start_tls();
    client.expect(220);
    assert!(client.is_silent());
}

/// [MS-FTPS] 3.2.5.1.
#[test]
fn implicit_takes_pbsz_and_prot_as_received() {
    let served = serve(Implicit);
    let mut client = served.secured(Implicit);
    client.log_in();
    assert_eq!(client.download("RETR hello"), b"0123456789");
}

/// [MS-FTPS] 3.2.5.1; PBSZ and PROT sent all the same are answered.
#[test]
fn implicit_prot_c_clears_the_data_channel_and_prot_p_protects_it_again() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    client.ask("PROT C", 200);
    assert_eq!(client.download_clear("RETR hello"), b"0123456789");
    client.ask("PBSZ 0", 200);
    client.ask("PROT P", 200);
    assert_eq!(client.download("RETR hello"), b"0123456789");
}

/// [MS-FTPS] 3.2.5.2, and the session goes on under TLS.
#[test]
fn implicit_ccc_is_refused_by_policy() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    client.ask("CCC", 534);
    client.ask("NOOP", 200);
    assert!(client.control.is_tls());
}

/// RFC 4217 section 6.
#[test]
fn ccc_outside_tls_is_533() {
    let served = serve(Explicit);
    let mut client = served.connect();
    client.expect(220);
    client.ask("CCC", 533);
}

/// RFC 4217 section 6: data connections keep their protection; passwords are not taken in the
/// clear; AUTH brings TLS back, and with it the need to log in.
#[test]
fn explicit_ccc_clears_the_control_connection_only() {
    let served = serve(Explicit);
    let mut client = served.explicit();
    client.ask("CCC", 200);
    client.stop_tls();
    client.ask("PWD", 257);
    client.ask("CCC", 533);
    client.ask("USER me", 533);
    assert_eq!(client.download("RETR hello"), b"0123456789");
    client.ask("AUTH TLS", 234);
    client.start_tls();
    client.ask("PWD", 530);
}

/// [MS-FTPS] 3.2.5.3.
#[test]
fn implicit_rein_ends_tls_and_begins_as_after_connect() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    client.ask("PROT C", 200);
    client.ask("CWD sub", 250);
    for _ in 0..2 {
        client.ask("REIN", 220);
        client.stop_tls();
        assert!(client.is_silent());
        client.start_tls();
        client.expect(220);
        client.ask("PWD", 530);
        client.log_in();
        assert!(client.ask("PWD", 257).lines[0].contains("\"/\""));
        // Protected again, although it was clear before.
        assert_eq!(client.download("RETR hello"), b"0123456789");
    }
}

/// RFC 4217 section 11, RFC 959: after TLS, clear, nobody logged in, and no second greeting.
#[test]
fn explicit_rein_ends_tls_and_waits_for_auth() {
    let served = serve(Explicit);
    let mut client = served.explicit();
    client.ask("REIN", 220);
    client.stop_tls();
    assert!(client.is_silent());
    client.ask("PWD", 533);
    client.ask("PROT P", 503);
    client.ask("AUTH TLS", 234);
    client.start_tls();
    client.ask("PWD", 530);
    client.log_in();
    let tcp = client.passive();
    // The protection level went with the rest.
    client.ask("RETR hello", 522);
    drop(tcp);
}

#[test]
fn rein_before_tls_is_answered_too() {
    let served = serve(Explicit);
    let mut client = served.connect();
    client.expect(220);
    client.ask("REIN", 220);
    client.ask("AUTH TLS", 234);
    client.start_tls();
    client.log_in();
}

/// [MS-FTPS] 3.2.5.4.
#[test]
fn explicit_auth_ssl_is_auth_tls() {
    let served = serve(Explicit);
    let mut client = served.connect();
    client.expect(220);
    client.ask("AUTH SSL", 234);
    client.start_tls();
    client.log_in();
    client.ask("PBSZ 0", 200);
    client.ask("PROT P", 200);
    assert_eq!(client.download("RETR hello"), b"0123456789");
}

/// RFC 4217 section 4.
#[test]
fn auth_of_another_mechanism_is_504() {
    let served = serve(Explicit);
    let mut client = served.connect();
    client.expect(220);
    client.ask("AUTH KERBEROS_V4", 504);
    client.ask("AUTH TLS", 234);
    client.start_tls();
}

/// [MS-FTPS] 3.2.5.6, RFC 2228.
#[test]
fn auth_on_an_implicit_session_or_inside_tls_is_503() {
    for security in [Implicit, Explicit] {
        let served = serve(security);
        let mut client = served.secured(security);
        client.ask("AUTH TLS", 503);
        client.ask("AUTH SSL", 503);
        client.log_in();
        client.ask("AUTH TLS", 503);
    }
}

/// [MS-FTPS] 3.2.5.5: the very text, before and after login, then the server's own lines.
#[test]
fn feat_is_as_ms_ftps_has_it() {
    let contract = [
        "211-Extended features supported:",
        " LANG EN*",
        " UTF8",
        " AUTH TLS;SSL;",
        " PBSZ",
        " PROT C;P;",
        " CCC",
        " HOST",
        " SIZE",
        " MDTM",
        " REST STREAM",
    ];
    for security in [Implicit, Explicit] {
        let served = serve(security);
        let mut client = served.secured(security);
        for _ in 0..2 {
            let lines = client.ask("FEAT", 211).lines;
            assert_eq!(lines[..contract.len()], contract);
            assert_eq!(lines.last().unwrap(), "211 END");
            let own = &lines[contract.len()..lines.len() - 1];
            assert!(own.iter().all(|line| line.starts_with(' ')), "{own:?}");
            assert!(
                own.iter()
                    .any(|line| line.starts_with(" MLST type*;size*;"))
            );
            client.log_in();
        }
    }
}

/// RFC 2228 section 3, RFC 4217 sections 8 and 9.
#[test]
fn pbsz_and_prot_keep_their_order() {
    let served = serve(Explicit);
    let mut client = served.connect();
    client.expect(220);
    client.ask("PBSZ 0", 503);
    client.ask("PROT P", 503);
    client.ask("AUTH TLS", 234);
    client.start_tls();
    client.ask("PROT P", 503);
    client.ask("PROT X", 503);
    assert!(client.ask("PBSZ 8192", 200).lines[0].contains("PBSZ=0"));
    client.ask("PROT X", 504);
    client.ask("PROT S", 536);
    client.ask("PROT E", 536);
    client.ask("PROT P", 200);
}

/// [MS-FTPS] 3.2.5.6: 534 for the level that policy refuses, 522 for data without the other.
#[test]
fn demanded_protection_is_534_and_522() {
    for security in [Implicit, Explicit] {
        let served = serve_with(security, |config| config.require_prot = true);
        let mut client = served.secured(security);
        client.log_in();
        let _tcp = client.passive();
        client.ask("LIST", 522);
        client.ask("PBSZ 0", 200);
        client.ask("PROT C", 534);
        let _tcp = client.passive();
        client.ask("LIST", 522);
        client.ask("PROT P", 200);
        assert!(text(&client.download("NLST")).contains("hello\r\n"));
    }
}

/// Without PROT data would be clear by RFC 4217's default; it must be asked for.
#[test]
fn explicit_data_without_prot_is_522_and_prot_c_is_heard() {
    let served = serve(Explicit);
    let mut client = served.secured(Explicit);
    client.log_in();
    let _tcp = client.passive();
    client.ask("RETR hello", 522);
    client.ask("PBSZ 0", 200);
    client.ask("PROT C", 200);
    assert_eq!(client.download_clear("RETR hello"), b"0123456789");
}

/// What came in the clear must not count as protected.
#[test]
fn commands_sent_behind_auth_are_not_taken() {
    let served = serve(Explicit);
    let mut client = served.connect();
    client.expect(220);
    client.send("AUTH TLS\r\nUSER me\r\n");
    client.expect(234);
    assert!(client.is_ended());
}

/// What came under TLS must not count after it.
#[test]
fn commands_sent_behind_rein_are_not_taken() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    client.send("REIN\r\nMKD made\r\n");
    client.expect(220);
    assert!(client.is_ended());
    assert!(!served.path().join("made").exists());
}

#[test]
fn commands_in_the_clear_are_533_and_without_login_530() {
    let served = serve(Explicit);
    let mut client = served.connect();
    client.expect(220);
    for command in ["USER me", "PASS any", "PWD", "LIST", "EPSV", "MKD made"] {
        client.ask(command, 533);
    }
    client.ask("FEAT", 211);
    client.ask("AUTH TLS", 234);
    client.start_tls();
    for command in ["PWD", "LIST", "EPSV", "MKD made", "SITE CHMOD 777 hello"] {
        client.ask(command, 530);
    }
    client.ask("PASS any", 503);
    client.log_in();
    client.ask("PWD", 257);
}

#[test]
fn a_wrong_password_is_530_and_the_third_ends_the_connection() {
    let served = serve_with(Implicit, |config| {
        let user = (b"me".to_vec(), Secret::new(*b"right"));
        config.users = Users::Listed(vec![user]);
    });
    let mut client = served.secured(Implicit);
    client.ask("USER me", 331);
    client.ask("PASS right", 230);
    let mut client = served.secured(Implicit);
    for (user, password, code) in [("me", "wrong", 530), ("you", "right", 530), ("me", "", 421)] {
        client.ask(format!("USER {user}"), 331);
        client.ask(format!("PASS {password}"), code);
    }
    assert!(client.is_ended());
}

/// RFC 7151: HOST comes before USER.
#[test]
fn host_and_lang_work_before_login() {
    let served = serve(Implicit);
    let mut client = served.secured(Implicit);
    client.ask("HOST ftp.example.com", 220);
    client.ask("LANG EN", 200);
    client.ask("LANG en-US", 200);
    client.ask("LANG FR", 504);
    client.ask("LANG", 200);
    client.log_in();
    client.ask("HOST ftp.example.com", 503);
}

#[test]
fn sessions_over_the_limit_get_421() {
    for security in [Implicit, Explicit] {
        let served = serve_with(security, |config| config.max_sessions = 1);
        let first = served.ready(security);
        let mut second = served.connect();
        if security == Implicit {
            second.start_tls();
        }
        second.expect(421);
        assert!(second.is_ended());
        drop((first, second));
        while served.server.sessions() > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        served.ready(security).ask("NOOP", 200);
    }
}

#[test]
fn an_idle_session_gets_421() {
    let served = serve_with(Implicit, |config| config.idle = Duration::from_millis(200));
    let mut client = served.implicit();
    client.expect(421);
    assert!(client.is_ended());
}

#[test]
fn lines_are_bounded_and_the_session_survives() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    client.ask("x".repeat(100_000), 500);
    client.ask("NOOP", 200);
    client.ask("NONSENSE", 500);
    client.ask("RETR", 501);
    client.ask("QUIT", 221);
    assert!(client.is_ended());
}

/// The certificate made on the spot: no CA (rustls would refuse it), for every local name.
#[test]
fn the_made_certificate_is_for_this_host_and_no_ca() {
    use x509_parser::prelude::*;
    let served = serve(Implicit);
    let (_, certificate) = X509Certificate::from_der(served.server.certificate()).unwrap();
    assert!(!certificate.is_ca());
    assert!(certificate.validity().is_valid());
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let names: Vec<_> = names
        .value
        .general_names
        .iter()
        .map(ToString::to_string)
        .collect();
    let loopback = "00:".repeat(15) + "01";
    for name in [
        "DNSName(localhost)",
        "IPAddress(7f:00:00:01)",
        &format!("IPAddress({loopback})"),
    ] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
}

#[test]
fn a_server_that_ends_takes_its_sessions_along() {
    let served = serve(Implicit);
    let mut client = served.implicit();
    let address = served.server.local_addr();
    let begun = std::time::Instant::now();
    served.server.stop();
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(client.is_ended());
    // The port is free at once.
    std::net::TcpListener::bind(address).unwrap();
}
