//! `ftpsfs serve`: arguments, password, what is printed, and the end by a signal. Knows no
//! protocol.

use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{CertificateFiles, Config, Faults, Rules, Server, Users};
use crate::proto::{Secret, Security};
use crate::tls;

/// Where the password comes from when nobody is to be asked.
const PASSWORD_VARIABLE: &str = "FTPSFS_PASSWORD";
/// Of a made-up password: no letter or digit that reads like another one.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const MADE_UP_LENGTH: usize = 20;

/// Serves a folder over FTPS.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The folder to serve; nothing outside it can be reached
    #[arg(value_name = "DIR")]
    pub root: PathBuf,
    /// TLS from the first byte (port 990), instead of AUTH TLS (port 21)
    #[arg(long)]
    pub implicit: bool,
    /// Where to listen [default: 127.0.0.1, port 990 or 21]
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub listen: Option<String>,
    /// Who may log in [default: your own name]; the password comes from FTPSFS_PASSWORD, or
    /// from the terminal, or is made up and printed
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Certificate chain, PEM [default: a certificate made for this run]
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Refuse every change
    #[arg(long)]
    pub read_only: bool,
    /// What shall go wrong, to test a client: FAULT RULES in ftpsfs(1); may be given again
    #[arg(long, value_name = "RULES")]
    pub fault: Vec<String>,
}

/// Serves until SIGINT, SIGTERM or SIGHUP. Failures are one line on stderr and exit status 1.
pub fn serve(args: ServeArgs) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("ftpsfs: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: ServeArgs) -> Result<(), String> {
    let security = if args.implicit {
        Security::Implicit
    } else {
        Security::Explicit
    };
    let listen = match &args.listen {
        Some(text) => parse_listen(text, default_port(security))
            .ok_or_else(|| format!("--listen {text}: not an address, ADDR:PORT or PORT"))?,
        None => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), default_port(security)),
    };
    let faults: Rules = args
        .fault
        .join("\n")
        .parse()
        .map_err(|e| format!("--fault: {e}"))?;
    // Before anything is printed: a signal from now on ends it in order.
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|e| format!("cannot take signals: {e}"))?;
    let user = args.user.clone().unwrap_or_else(own_name);
    let (password, made_up) = password(&args, &user)?;
    let users = Users::Listed(vec![(user.clone().into_bytes(), password.clone())]);

    let mut config = Config::new(args.root, security, users);
    config.listen = listen;
    config.read_only = args.read_only;
    config.faults = (!faults.0.is_empty()).then(|| Faults::new(faults));
    config.certificate = args
        .cert
        .zip(args.key)
        .map(|(chain, key)| CertificateFiles { chain, key });
    let root = config.root.clone();
    let server = Server::start(config).map_err(|e| advise(&e, listen, security))?;

    let address = server.local_addr();
    let mut announced = announce(&server, &root.display().to_string(), &user, security);
    if made_up {
        announced += &format!("password={}\n", password.expose().escape_ascii());
    }
    let mut stdout = io::stdout();
    // A reader that went away (`| head -1`) is no reason to stop serving.
    let _ = stdout.write_all(announced.as_bytes());
    let _ = stdout.flush();

    signals.forever().next();
    log::info!("ending the server at {address}");
    server.stop();
    Ok(())
}

fn announce(server: &Server, root: &str, user: &str, security: Security) -> String {
    let address = server.local_addr();
    let scheme = match security {
        Security::Implicit => "ftps",
        Security::Explicit => "ftpes",
    };
    let fingerprint = server.fingerprint();
    // Who listens everywhere is reached at the loopback address for one.
    let reached = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let at = SocketAddr::new(reached, address.port());
    format!(
        "serving {root} at {address}\n\
         fingerprint={fingerprint}\n\
         user={user}\n\
         mount it by: ftpsfs mount {scheme}://{user}@{at}/ /mnt -o fingerprint={fingerprint}\n"
    )
}

/// The password, and whether it was made up.
fn password(args: &ServeArgs, user: &str) -> Result<(Secret, bool), String> {
    if let Some(password) = std::env::var_os(PASSWORD_VARIABLE) {
        use std::os::unix::ffi::OsStringExt;
        return Ok((Secret::new(password.into_vec()), false));
    }
    if args.user.is_some() && io::stdin().is_terminal() {
        let prompt = format!("Password for {user} (empty: make one up): ");
        let typed =
            rpassword::prompt_password(prompt).map_err(|e| format!("no password was read: {e}"))?;
        if !typed.is_empty() {
            return Ok((Secret::new(typed), false));
        }
    }
    let mut password = vec![0; MADE_UP_LENGTH];
    tls::provider()
        .secure_random
        .fill(&mut password)
        .map_err(|_| "no random numbers for a password")?;
    for byte in &mut password {
        *byte = ALPHABET[usize::from(*byte) % ALPHABET.len()];
    }
    Ok((Secret::new(password), true))
}

fn own_name() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    match user {
        Ok(Some(user)) => user.name,
        _ => "ftpsfs".to_owned(),
    }
}

/// [MS-FTPS] 1.9 and RFC 959.
fn default_port(security: Security) -> u16 {
    match security {
        Security::Implicit => 990,
        Security::Explicit => 21,
    }
}

fn parse_listen(text: &str, default_port: u16) -> Option<SocketAddr> {
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
        return Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    match bare.parse() {
        Ok(address) => Some(SocketAddr::new(address, default_port)),
        Err(_) => text.parse().ok(),
    }
}

/// The error, and what to do about it where that is known.
fn advise(error: &io::Error, listen: SocketAddr, security: Security) -> String {
    let higher = match security {
        Security::Implicit => 9990,
        Security::Explicit => 2121,
    };
    let instead = SocketAddr::new(listen.ip(), higher);
    match error.kind() {
        io::ErrorKind::PermissionDenied if listen.port() != 0 && listen.port() < 1024 => {
            format!("{error}; ports below 1024 are root's, try --listen {instead}")
        }
        io::ErrorKind::AddrInUse => format!("{error}; try --listen {instead}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// [MS-FTPS] 1.9.
    #[test]
    fn implicit_listens_on_990_by_default() {
        let listen = parse_listen("0.0.0.0", default_port(Security::Implicit));
        assert_eq!(listen.unwrap().to_string(), "0.0.0.0:990");
    }

    #[test]
    fn listen_takes_address_port_or_both() {
        let table = [
            ("127.0.0.1:2121", Some("127.0.0.1:2121")),
            ("0.0.0.0", Some("0.0.0.0:21")),
            ("2121", Some("127.0.0.1:2121")),
            (":2121", Some("127.0.0.1:2121")),
            ("::1", Some("[::1]:21")),
            ("[::1]", Some("[::1]:21")),
            ("[::1]:990", Some("[::1]:990")),
            ("localhost", None),
            ("127.0.0.1:70000", None),
            ("", None),
        ];
        for (text, expected) in table {
            let parsed = parse_listen(text, 21).map(|address| address.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_denied_low_port_is_explained_in_one_line() {
        let denied = io::Error::new(io::ErrorKind::PermissionDenied, "Permission denied");
        let listen = SocketAddr::from(([127, 0, 0, 1], 990));
        let text = advise(&denied, listen, Security::Implicit);
        assert!(text.contains("--listen 127.0.0.1:9990"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
