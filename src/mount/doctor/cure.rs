//! What goes wrong with FTPS servers, what that means, and what cures it: an option of ours, or a
//! setting of the server's. Knows no network; everything here is words.

use crate::client::{self, Config};
use crate::proto::{NegotiationError, RemotePath, Security};
use crate::remote;

use super::Step;

/// Something that is wrong.
pub(super) struct Trouble {
    /// In the server's own words, where it spoke.
    pub found: String,
    pub meaning: String,
    pub cure: String,
    /// Another kind of data connection may get through.
    pub is_of_the_network: bool,
}

fn trouble(found: impl Into<String>, meaning: &str, cure: &str) -> Trouble {
    Trouble {
        found: found.into(),
        meaning: meaning.to_owned(),
        cure: cure.to_owned(),
        is_of_the_network: false,
    }
}

pub(super) fn no_name(host: &str, why: &str) -> Trouble {
    trouble(
        format!("{host}: {why}"),
        "no address is known for that name",
        "check its spelling, and this machine's DNS (`getent hosts NAME`); an address will do as well",
    )
}

pub(super) fn some_addresses_dead(found: String) -> Trouble {
    trouble(
        found,
        "not every address of the server answers; each attempt loses time on the dead ones",
        "have its DNS entry put right, or name the good address as the source, with tls_name= for the certificate",
    )
}

pub(super) fn no_connection(
    found: String,
    port: u16,
    refused: bool,
    other: Option<u16>,
) -> Trouble {
    let meaning = match refused {
        true => format!("the machine is there, but nothing listens on port {port}"),
        false => {
            format!("nothing answers on port {port}: the machine is down, or a firewall is between")
        }
    };
    let cure = match other {
        Some(990) => "port 990 is open there: mount ftps://HOST/, which is implicit TLS".to_owned(),
        Some(_) => {
            "port 21 is open there: mount HOST:/ or ftpes://HOST/, which is explicit TLS".to_owned()
        }
        None => "check the server, the firewall, and port=".to_owned(),
    };
    trouble(found, &meaning, &cure)
}

/// At which step a connection failed, and why.
pub(super) fn of_client(error: &client::Error, config: &Config) -> (Step, Trouble) {
    let found = error.to_string();
    match error {
        client::Error::Connect { .. } => (
            Step::Tcp,
            trouble(found, "the server cannot be reached any more", "try again"),
        ),
        client::Error::Busy(_) => (
            Step::Login,
            trouble(
                found,
                "the server has as many connections as it takes, of this user or in all",
                "end other clients, lower max_sessions= where other mounts are; on the server: max_per_ip and max_clients (vsftpd), MaxClients (ProFTPD), -c and -C (Pure-FTPd)",
            ),
        ),
        client::Error::Certificate(refused) => (Step::Certificate, of_certificate(refused)),
        client::Error::Tls(words) if words.contains("does not speak TLS here") => (
            Step::Tls,
            trouble(
                found,
                "the server speaks in the clear first, as explicit servers do",
                other_tls(config.security),
            ),
        ),
        client::Error::Tls(_) | client::Error::Distrusted(_) => (
            Step::Tls,
            trouble(
                found,
                "the two ends agree on no TLS",
                "try tls=1.2; an old server (TLS 1.0 or 1.1, RC4, 3DES) must be updated; one that wants a client certificate needs cert= and key=",
            ),
        ),
        client::Error::TimedOut { during } if during.contains("greeting") => (
            Step::Tls,
            trouble(
                found,
                "the server is silent: it waits for a TLS handshake, or something between swallows the connection",
                other_tls(config.security),
            ),
        ),
        client::Error::Negotiation(error) => of_negotiation(found, error),
        client::Error::Lost { during, .. } | client::Error::TimedOut { during } => {
            let before_login = during.contains("greeting")
                || during.contains("AUTH")
                || during.contains("handshake");
            let step = if before_login { Step::Tls } else { Step::Login };
            (
                step,
                trouble(
                    found,
                    "the server, or something between, ended the connection or fell silent",
                    "look into the server's log; a firewall that inspects FTP must not touch port 21 under TLS; try tls=1.2",
                ),
            )
        }
        _ => (
            Step::Login,
            trouble(
                found,
                "the server keeps to no protocol that we know",
                "look into the server's log, and here with `ftpsfs mount -d`",
            ),
        ),
    }
}

fn of_certificate(refused: &crate::tls::RefusedCertificate) -> Trouble {
    let reason = &refused.reason;
    let pin = format!("fingerprint={}", refused.certificate.fingerprint);
    let (meaning, cure) = if reason.contains("expired") || reason.contains("not valid yet") {
        (
            "the certificate's time is over or has not come; or this machine's clock is wrong",
            format!("have it renewed on the server (and check `date` here); until then {pin}"),
        )
    } else if reason.contains("not for the name") {
        (
            "the certificate belongs to another name than the source's",
            format!("mount by a name that it is for, or say it by tls_name=; or {pin}"),
        )
    } else if reason.contains("not the pinned one") {
        (
            "the server shows another certificate than fingerprint= says: it was renewed, or somebody stands between",
            format!("ask the server's administrator; if it was renewed: {pin}"),
        )
    } else if reason.contains("HAS CHANGED") {
        (
            "another certificate than at first use: it was renewed, or somebody stands between",
            format!(
                "ask the server's administrator; if it was renewed, {}",
                refused.cure
            ),
        )
    } else {
        (
            "no authority that is trusted here has issued it: it is self-signed, or of an authority of the server's own",
            format!(
                "compare the fingerprint with the server's administrator, then {pin}; or cafile= with the authority's certificate"
            ),
        )
    };
    trouble(refused.to_string(), meaning, &cure)
}

fn of_negotiation(found: String, error: &NegotiationError) -> (Step, Trouble) {
    match error {
        NegotiationError::Unavailable(_) => (
            Step::Tls,
            trouble(
                found,
                "the server takes no connection just now, or none from here",
                "wait, or ask its administrator; hosts.deny, DenyIP and the like name who may connect",
            ),
        ),
        NegotiationError::NoTls(_) => (
            Step::Tls,
            trouble(
                found,
                "a plain FTP server, or one whose TLS is not switched on: a password would go in the clear, so nothing is sent",
                "switch it on: ssl_enable=YES (vsftpd), TLSEngine on (ProFTPD), --tls 1 or 2 (Pure-FTPd)",
            ),
        ),
        NegotiationError::Login(_) => (
            Step::Login,
            trouble(
                found,
                "the server does not let this user in with this password",
                "check username= and the credentials file; on the server: that the user may use FTP (userlist, /etc/ftpusers, valid shell)",
            ),
        ),
        NegotiationError::NoProtection(_) => (
            Step::Login,
            trouble(
                found,
                "the server encrypts logins, but no data: files would go in the clear, so nothing is sent",
                "allow PROT P on the server: force_local_data_ssl=YES (vsftpd), TLSRequired on (ProFTPD)",
            ),
        ),
        _ => (
            Step::Login,
            trouble(
                found,
                "the server's reply makes no sense at this point",
                "look into the server's log, and here with `ftpsfs mount -d`",
            ),
        ),
    }
}

/// What to try where TLS did not come about.
pub(super) fn other_tls(tried: Security) -> &'static str {
    match tried {
        Security::Implicit => {
            "this is a port of explicit TLS: mount ftpes://HOST/, or leave `implicit` away"
        }
        Security::Explicit => {
            "this may be a port of implicit TLS: mount ftps://HOST/, or add `implicit`"
        }
    }
}

pub(super) fn ends_soon(found: String) -> Trouble {
    trouble(
        found,
        "it ends within two weeks, and the mount with it",
        "have it renewed on the server",
    )
}

pub(super) fn no_features() -> Trouble {
    trouble(
        "FEAT lists nothing",
        "an old server: listings are parsed as people read them, and times may be to the minute only",
        "nothing has to be done; an update of the server would help",
    )
}

pub(super) fn of_data(error: &client::Error, active: bool) -> Trouble {
    let found = error.to_string();
    let words = found.to_lowercase();
    if matches!(error, client::Error::NoResumption(_))
        || words.contains("reuse")
        || words.contains("522")
    {
        return trouble(
            found,
            "the server wants data connections to resume the TLS session of the control connection, and did not recognize it",
            "try tls=1.2; on the server: require_ssl_reuse=NO (vsftpd), TLSOptions NoSessionReuseRequired (ProFTPD)",
        );
    }
    let (meaning, cure) = match active {
        false => (
            "the login works, but not the second connection on which files and listings travel: a firewall closes the server's passive ports, or the server names wrong ones",
            "open the server's passive port range (pasv_min_port and pasv_max_port, PassivePorts, -p) in its firewall; or try `active`",
        ),
        true => (
            "the server cannot connect to this machine: a firewall or NAT is between",
            "leave `active` away",
        ),
    };
    Trouble {
        is_of_the_network: true,
        ..trouble(found, meaning, cure)
    }
}

/// The other way of making data connections was tried, and works.
pub(super) fn other_way(active: bool) -> &'static str {
    match active {
        false => "data connections that the server opens work from here: add `active`",
        true => "data connections that we open work from here: leave `active` away",
    }
}

/// What was being done on a path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Listing,
    Writing,
    Deleting,
}

pub(super) fn of_remote(error: &remote::Error, path: &RemotePath, doing: Doing) -> Trouble {
    let found = format!("{path}: {error}");
    let (meaning, cure) = match (error, doing) {
        (remote::Error::NotFound, Doing::Listing) => (
            "the server has no such directory for this user",
            "check the path in the source; it begins at the user's root on the server, which may not be the server's own",
        ),
        (remote::Error::NotDirectory, _) => (
            "only directories can be mounted",
            "name the directory that the file is in",
        ),
        (remote::Error::Denied(_), Doing::Listing) => (
            "the user may log in, but not look into this directory",
            "give the user read and execute permission for it on the server, or mount another one",
        ),
        (remote::Error::Denied(_) | remote::Error::Unsupported(_), _) => (
            "the user may read here, but not write or delete",
            "mount with ro; or on the server: write_enable=YES and write permission (vsftpd), AllowOverwrite on and <Limit WRITE> (ProFTPD)",
        ),
        (remote::Error::NoSpace(_) | remote::Error::Quota(_), _) => (
            "the server's disk, or the user's share of it, is full",
            "make room there",
        ),
        (remote::Error::TimedOut(_) | remote::Error::Lost(_), _) => (
            "the connection broke meanwhile",
            "try again; look into the server's log",
        ),
        _ => (
            "the server refuses, and does not say why in terms that we know",
            "look into the server's log, and here with `ftpsfs mount -d`",
        ),
    };
    trouble(found, meaning, cure)
}

pub(super) fn cut_short(found: String) -> Trouble {
    trouble(
        format!("{found}, cut short by the server"),
        "the server shows only so many names of a directory; the others can be opened by name, but are not listed",
        "raise the limit on the server (-L of Pure-FTPd)",
    )
}

pub(super) fn clock_off(off: &str) -> Trouble {
    trouble(
        format!("writing works, but the server's clock is {off} off ours"),
        "a file that is written now has another time, which confuses make, rsync and backups",
        "set both clocks by NTP; a whole number of hours is a time zone: time_offset= here, or there use_localtime=NO (vsftpd), TimesGMT on (ProFTPD)",
    )
}
