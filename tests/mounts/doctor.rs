//! `ftpsfs doctor` on real servers: well at every step, and right about what is wrong.

use crate::common::command::{Finished, run_soon};
use crate::common::mount::Place;
use crate::common::server::{Kind, Options, RealServer};
use serde_json::Value;

fn doctor(place: &Place, server: &RealServer, extra: &str) -> Finished {
    let mut command = place.binary();
    command.args(["doctor", "--write", "--json", &server.source(), "-o"]);
    run_soon(command.arg(place.options(server, extra)))
}

fn step(finished: &Finished, name: &str) -> Value {
    let told: Value = serde_json::from_slice(&finished.stdout).expect("it is JSON");
    let steps = told["steps"].as_array().expect("it has steps");
    let found = steps.iter().find(|step| step["step"] == name);
    found.expect("every step is told").clone()
}

#[test]
fn every_server_is_well() {
    use Kind::*;
    for kind in [
        VsftpdExplicit,
        VsftpdImplicit,
        ProftpdExplicit,
        ProftpdImplicit,
        PureFtpd,
        Pyftpdlib,
        PyftpdlibImplicit,
    ] {
        let server = RealServer::of(kind);
        let place = Place::new();
        let finished = doctor(&place, &server, "");
        let text = String::from_utf8_lossy(&finished.stdout).into_owned();
        assert_eq!(finished.code(), 0, "{kind:?}: {text}{}", finished.stderr);
        for name in [
            "name",
            "tcp",
            "tls",
            "certificate",
            "login",
            "features",
            "data",
            "resumption",
            "listing",
        ] {
            assert_eq!(step(&finished, name)["state"], "ok", "{kind:?}: {text}");
        }
        // Servers run in another time zone; some tell their own time.
        let written = step(&finished, "write");
        assert!(
            matches!(written["state"].as_str(), Some("ok" | "warning")),
            "{kind:?}: {text}"
        );
        let resumption = step(&finished, "resumption");
        let found = resumption["found"].as_str().unwrap_or_default();
        let demands = kind.is_vsftpd() || kind.is_proftpd();
        if demands {
            assert!(found.contains("resume TLS sessions"), "{kind:?}: {found}");
        }
        let left: Vec<_> = std::fs::read_dir(&server.root)
            .expect("list the root")
            .collect();
        assert!(left.is_empty(), "{kind:?}: {left:?}");
    }
}

#[test]
fn a_server_without_tls_and_one_without_passive_mode() {
    let plain = Options {
        tls: false,
        ..Options::default()
    };
    let server = RealServer::start(Kind::VsftpdExplicit, plain);
    let place = Place::new();
    let finished = doctor(&place, &server, "");
    assert_eq!(finished.code(), 32);
    let tls = step(&finished, "tls");
    assert_eq!(tls["state"], "failed", "{tls}");
    assert!(
        tls["cure"]
            .as_str()
            .is_some_and(|cure| cure.contains("ssl_enable=YES")),
        "{tls}"
    );

    let active = Options {
        passive: false,
        ..Options::default()
    };
    let server = RealServer::start(Kind::VsftpdExplicit, active);
    let place = Place::new();
    let finished = doctor(&place, &server, "");
    assert_eq!(
        finished.code(),
        32,
        "{}",
        String::from_utf8_lossy(&finished.stdout)
    );
    let data = step(&finished, "data");
    assert!(
        data["cure"]
            .as_str()
            .is_some_and(|cure| cure.contains("add `active`")),
        "{data}"
    );
}
