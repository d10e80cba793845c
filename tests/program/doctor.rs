//! `ftpsfs doctor`: what it finds on a good server, and what it says of each thing that goes wrong.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use ftpsfs::proto::Security;
use ftpsfs::server::Faults;
use serde_json::Value;

use super::bench::{Bench, PASSWORD, refusal, said};

fn doctor(bench: &Bench, source: &str, options: &str, more: &[&str]) -> Command {
    let mut command = bench.program(&["doctor", source, "-o", options]);
    command.args(more);
    command
}

/// An explicit server with these faults.
fn explicit(rules: &str) -> Bench {
    let faults = Faults::new(rules.parse().unwrap());
    Bench::with(|config| {
        config.security = Security::Explicit;
        config.faults = Some(faults);
    })
}

/// Options for an explicit server; little patience.
fn options(bench: &Bench) -> String {
    let port = bench.server.local_addr().port();
    let credentials = bench.path("credentials");
    format!(
        "explicit,port={port},timeout=5,fingerprint={},credentials={}",
        bench.server.fingerprint(),
        credentials.display()
    )
}

/// The one step that failed: its name, what was found, and what cures it.
fn complaint(command: &mut Command) -> (String, String, String) {
    let output = command.arg("--json").output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(32), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["healthy"], false);
    let steps = told["steps"].as_array().unwrap();
    let failed: Vec<_> = steps
        .iter()
        .filter(|step| step["state"] == "failed")
        .collect();
    assert_eq!(failed.len(), 1, "{told:#}");
    let text = |key: &str| failed[0][key].as_str().unwrap().to_owned();
    assert!(!text("meaning").is_empty());
    let order: Vec<_> = steps
        .iter()
        .map(|step| step["step"].as_str().unwrap())
        .collect();
    for (step, name) in steps.iter().zip(&order) {
        let at = |name: &str| order.iter().position(|one| *one == name);
        if at(name) > at(&text("step")) {
            assert_eq!(step["state"], "skipped", "{told:#}");
        }
    }
    (text("step"), text("found"), text("cure"))
}

#[test]
fn a_good_server_is_well_at_every_step() {
    let bench = Bench::new();
    let options = bench.options();
    let told = said(&mut doctor(
        &bench,
        "127.0.0.1:/",
        &options,
        &["--json", "--write"],
    ));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["healthy"], true);
    for step in told["steps"].as_array().unwrap() {
        assert_eq!(step["state"], "ok", "{told:#}");
    }
    assert_eq!(told["steps"].as_array().unwrap().len(), 10);
    let names: Vec<_> = fs::read_dir(bench.path("served")).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing is left behind");
    let text = said(&mut doctor(&bench, "127.0.0.1:/", &options, &[]));
    assert!(
        text.contains("ok       name         127.0.0.1 is 127.0.0.1\n"),
        "{text}"
    );
    assert!(text.contains("implicit, TLSv1.3"), "{text}");
    assert!(text.contains("/: 1 entry by MLSD"), "{text}");
    assert!(
        text.contains("-        write        not tried: --write does\n"),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "colours are for terminals: {text}");
    assert!(!text.contains(PASSWORD), "{text}");
    let line = format!(
        "{} doctor 127.0.0.1:/ -o {options}",
        env!("CARGO_BIN_EXE_ftpsfs")
    );
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &line, "/dev/null"]);
    let text = said(terminal.stdin(Stdio::null()).env("TERM", "xterm"));
    assert!(text.contains("\x1b[32mok"), "green on a terminal: {text:?}");
}

#[test]
fn a_wrong_password_is_told_in_the_servers_words() {
    let bench = explicit("");
    let options = options(&bench) + ",password_stdin,username=me";
    let mut command = doctor(&bench, "127.0.0.1:/", &options, &[]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"wrong-guess\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(32));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("FAILED   login        login refused: 530 "),
        "{text}"
    );
    assert!(
        text.contains("to do: check username= and the credentials file"),
        "{text}"
    );
    assert!(text.contains("ok       certificate"), "{text}");
    assert!(!text.contains("wrong-guess"), "{text}");
}

#[test]
fn an_unknown_certificate_comes_with_the_line_to_paste() {
    let bench = explicit("");
    let port = bench.server.local_addr().port();
    let credentials = bench.path("credentials");
    let options = format!("port={port},credentials={}", credentials.display());
    let (step, found, cure) = complaint(&mut doctor(&bench, "127.0.0.1:/", &options, &[]));
    assert_eq!(step, "certificate");
    assert!(found.contains("its issuer is not trusted here"), "{found}");
    let pin = format!("fingerprint={}", bench.server.fingerprint());
    assert!(cure.contains(&pin), "{cure}");
}

#[test]
fn a_closed_port_and_an_unknown_name() {
    let bench = explicit("");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    let options = format!("{},port={port}", options(&bench));
    let (step, found, _) = complaint(&mut doctor(&bench, "127.0.0.1:/", &options, &[]));
    assert_eq!(step, "tcp");
    assert!(found.contains("refused"), "{found}");
    let (step, _, cure) = complaint(&mut doctor(&bench, "nowhere.invalid:/", &options, &[]));
    assert_eq!(step, "name");
    assert!(cure.contains("DNS"), "{cure}");
}

#[test]
fn a_server_without_tls_and_one_of_the_other_kind() {
    let bench = explicit("AUTH always: reply \"502 Not here\"");
    let (step, found, cure) = complaint(&mut doctor(&bench, "127.0.0.1:/", &options(&bench), &[]));
    assert_eq!(step, "tls");
    assert!(found.contains("502 Not here"), "{found}");
    assert!(cure.contains("ssl_enable=YES"), "{cure}");

    let bench = explicit("");
    let wrong = options(&bench) + ",implicit";
    let (step, _, cure) = complaint(&mut doctor(&bench, "127.0.0.1:/", &wrong, &[]));
    assert_eq!(step, "tls");
    assert!(cure.contains("ftpes://"), "{cure}");

    let bench = Bench::new();
    let wrong = options(&bench) + ",timeout=2";
    let (step, _, cure) = complaint(&mut doctor(&bench, "127.0.0.1:/", &wrong, &[]));
    assert_eq!(step, "tls");
    assert!(cure.contains("ftps://"), "{cure}");
}

#[test]
fn blocked_data_connections_and_the_way_that_works() {
    let closed_port = "reply \"229 Entering extended passive mode (|||1|)\"";
    let bench = explicit(&format!("EPSV always: {closed_port}"));
    let (step, found, cure) = complaint(&mut doctor(&bench, "127.0.0.1:/", &options(&bench), &[]));
    assert_eq!(step, "data");
    assert!(found.contains("127.0.0.1:1"), "{found}");
    assert_eq!(
        cure,
        "data connections that the server opens work from here: add `active`"
    );

    let bench = explicit("EPRT always: reply \"425 Cannot reach you\"");
    let active = options(&bench) + ",active";
    let (step, _, cure) = complaint(&mut doctor(&bench, "127.0.0.1:/", &active, &[]));
    assert_eq!(step, "data");
    assert_eq!(
        cure,
        "data connections that we open work from here: leave `active` away"
    );
}

#[test]
fn resumption_that_does_not_work() {
    let bench =
        explicit("LIST always: reply \"522 SSL connection failed: session reuse required\"");
    let (step, found, cure) = complaint(&mut doctor(&bench, "127.0.0.1:/", &options(&bench), &[]));
    assert_eq!(step, "data");
    assert!(found.contains("522"), "{found}");
    assert!(cure.contains("require_ssl_reuse=NO"), "{cure}");
}

#[test]
fn a_missing_directory_and_one_that_is_not_writable() {
    let bench = explicit("");
    let (step, found, _) = complaint(&mut doctor(
        &bench,
        "127.0.0.1:/nowhere",
        &options(&bench),
        &[],
    ));
    assert_eq!(
        (&*step, &*found),
        ("listing", "/nowhere: no such file or directory")
    );

    let bench = Bench::with(|config| config.read_only = true);
    let (step, _, cure) = complaint(&mut doctor(
        &bench,
        "127.0.0.1:/",
        &bench.options(),
        &["--write"],
    ));
    assert_eq!(step, "write");
    assert!(cure.contains("mount with ro"), "{cure}");
}

#[test]
fn wrong_arguments_are_no_matter_of_the_server() {
    let bench = Bench::new();
    let misspelt = refusal(&mut doctor(&bench, "127.0.0.1:/", "prot=1", &[]), 1);
    assert!(misspelt.contains("is `port` meant?"), "{misspelt}");
    let missing = bench.options() + ",fingerprint=,cafile=/proc/nowhere";
    assert!(refusal(&mut doctor(&bench, "127.0.0.1:/", &missing, &[]), 1).contains("fingerprint"));
}
