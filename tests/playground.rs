#[path = "common/mod.rs"]
mod common;
use common::server::*;
#[test]
fn play() {
    let kind = match std::env::var("KIND").unwrap().as_str() {
        "vs" => Kind::VsftpdExplicit,
        "pro" => Kind::ProftpdExplicit,
        "pure" => Kind::PureFtpd,
        _ => Kind::Pyftpdlib,
    };
    let server = RealServer::start(
        kind,
        Options {
            attributes: kind != Kind::VsftpdExplicit,
            ..Options::default()
        },
    );
    std::fs::write(
        std::env::var("INFO").unwrap(),
        format!("{} {}", server.port(), server.root.display()),
    )
    .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(6000));
}
