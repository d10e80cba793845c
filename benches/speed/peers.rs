//! Who is measured: mounts of one server, and clients without a mount as floors. What is not installed is left out.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::common::mount::Mount;
use super::common::server::{PASSWORD, RealServer, USER};
use super::common::wait_until;
use super::network::SERVER;
use super::rows::Scene;

const SSH_PORT: u16 = 2222;
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    Ftpsfs,
    WriteBack,
    Rclone,
    Sshfs,
    Curl,
    Lftp,
    /// The FUSE file system in memory.
    Memory,
}

/// A mounted peer; dropped, it is unmounted.
pub struct Mounted {
    dir: PathBuf,
    own: Option<Mount>,
    other: Option<Child>,
    /// What it logs, and where that is kept.
    log: Option<(PathBuf, PathBuf)>,
}

/// What the peers need beside the server of FTPS.
pub struct Surroundings {
    /// Keys, caches and mount points.
    pub folder: PathBuf,
    /// Where the last mount's log is kept.
    pub log: Option<PathBuf>,
    sshd: Option<Child>,
}

impl Peer {
    pub const ALL: [Self; 7] = [
        Self::Ftpsfs,
        Self::WriteBack,
        Self::Rclone,
        Self::Sshfs,
        Self::Curl,
        Self::Lftp,
        Self::Memory,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ftpsfs => "ftpsfs",
            Self::WriteBack => "writeback",
            Self::Rclone => "rclone",
            Self::Sshfs => "sshfs",
            Self::Curl => "curl",
            Self::Lftp => "lftp",
            Self::Memory => "memory",
        }
    }

    pub fn is_installed(self) -> bool {
        match self {
            Self::Ftpsfs | Self::WriteBack | Self::Memory => true,
            Self::Sshfs => on_path("sshfs") && sshd().is_some(),
            other => on_path(other.name()),
        }
    }

    /// Whether the row says anything about it.
    pub fn takes_part(self, row: &str) -> bool {
        match self {
            Self::Ftpsfs | Self::Rclone | Self::Sshfs => true,
            Self::WriteBack => row == "small-writes",
            Self::Curl => matches!(row, "read" | "write"),
            Self::Lftp => matches!(row, "read" | "walk" | "small-reads"),
            Self::Memory => matches!(row, "reread" | "cached-stat" | "cached-list"),
        }
    }

    /// The command that does a row's work, for a client without a mount.
    pub fn command(
        self,
        row: &str,
        server: &RealServer,
        around: &Surroundings,
        size: u64,
    ) -> Option<Command> {
        let address = format!("ftp://{SERVER}:{}", server.port());
        let folder = around.folder.join("local");
        let script = match (self, row) {
            (Self::Curl, "read") => format!("curl -o /dev/null {address}/large"),
            (Self::Curl, "write") => {
                format!("head -c {size} /dev/zero | curl -T - {address}/written")
            }
            (Self::Lftp, "read") => "lftp 'pget -n 4 large -o large'".to_owned(),
            (Self::Lftp, "walk") => "lftp 'find tree' >/dev/null".to_owned(),
            (Self::Lftp, "small-reads") => "lftp 'mirror -P 4 small small'".to_owned(),
            _ => return None,
        };
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).ok()?;
        let prelude = format!(
            "set -e -o pipefail
             curl() {{ command curl -sS -k --ssl-reqd -u \"$user:$password\" \"$@\"; }}
             lftp() {{ command lftp -c \"set ssl:verify-certificate no; set ftp:ssl-force yes; \
             set ftp:use-stat-for-list yes; set ftp:list-options ''; \
             open -u '$user','$password' {address}; $1\"; }}\n"
        );
        let mut command = Command::new("bash");
        command
            .args(["-c", &(prelude + &script)])
            .current_dir(&folder);
        command
            .env("user", USER)
            .env("password", PASSWORD)
            .env("HOME", &around.folder);
        Some(command)
    }

    /// Mounts it anew, with nothing cached.
    pub fn mount(
        self,
        row: &str,
        server: &RealServer,
        around: &Surroundings,
        scene: &Scene,
    ) -> io::Result<Mounted> {
        // Certificates are the test authority's; what a cached row knows must not expire meanwhile.
        let options = match row {
            "cached-stat" | "cached-list" => "tls_name=localhost,attr_timeout=600,dir_timeout=600",
            _ => "tls_name=localhost",
        };
        let dir = around.folder.join("mount");
        fs::create_dir_all(&dir)?;
        let mut command = match self {
            Self::Ftpsfs => return Ok(Mounted::own(server, options, around)),
            Self::WriteBack => {
                let options = format!("{options},writeback");
                return Ok(Mounted::own(server, &options, around));
            }
            Self::Rclone => rclone(row, server, around)?,
            Self::Sshfs => {
                let mut command = Command::new("sshfs");
                command.args([
                    "-f",
                    "-p",
                    &SSH_PORT.to_string(),
                    "-o",
                    "StrictHostKeyChecking=no",
                ]);
                command.args(["-o", "UserKnownHostsFile=/dev/null", "-o"]);
                command.arg(format!(
                    "IdentityFile={}",
                    around.folder.join("key").display()
                ));
                command.arg(format!("root@{SERVER}:{}", scene.root.display()));
                command
            }
            Self::Memory => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["--serve-memory", &scene.size.to_string()]);
                command
            }
            Self::Curl | Self::Lftp => return Err(io::Error::other("has no mount")),
        };
        let log = fs::File::create(around.folder.join("peer.log"))?;
        command
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = command.spawn()?;
        let mounted = Mounted {
            dir: dir.clone(),
            own: None,
            other: Some(process),
            log: None,
        };
        let before = fs::metadata(&around.folder)?;
        let is_there = || {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(&dir).is_ok_and(|about| about.dev() != before.dev())
        };
        match wait_until(PATIENCE, is_there) {
            true => Ok(mounted),
            false => {
                let said = fs::read_to_string(around.folder.join("peer.log"))?;
                Err(io::Error::other(
                    said.lines().last().unwrap_or("does not mount").to_owned(),
                ))
            }
        }
    }
}

impl Mounted {
    fn own(server: &RealServer, options: &str, around: &Surroundings) -> Self {
        let (mount, log) = match &around.log {
            None => (Mount::new(server, options), None),
            Some(kept) => {
                let (mount, log) = Mount::logged(server, &format!("{options},debug"));
                (mount, Some((log, kept.clone())))
            }
        };
        Self {
            dir: mount.dir.clone(),
            own: Some(mount),
            other: None,
            log,
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The most memory that its process ever had, bytes.
    pub fn peak_memory(&self) -> Option<u64> {
        let own = self.own.as_ref().map(|m| m.place().daemon().as_raw());
        let other = self
            .other
            .as_ref()
            .map(|process| process.id().cast_signed());
        let status = fs::read_to_string(format!("/proc/{}/status", own.or(other)?)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib << 10)
    }

    /// Ends it, however stuck it is: whoever works in it gets errors.
    pub fn kill(&mut self) {
        // A place takes away what is left of its mount.
        drop(self.own.take().map(Mount::into_place));
        if let Some(mut process) = self.other.take() {
            let _ = process.kill();
            let _ = process.wait();
            self.umount(&["-l"]);
        }
    }

    fn umount(&self, how: &[&str]) {
        let mut umount = Command::new("umount");
        let _ = umount
            .args(how)
            .arg(&self.dir)
            .stderr(Stdio::null())
            .status();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some((log, kept)) = &self.log {
            let _ = fs::copy(log, kept);
        }
        if let Some(mut process) = self.other.take() {
            self.umount(&[]);
            let ended = || matches!(process.try_wait(), Ok(Some(_)));
            if !wait_until(PATIENCE, ended) {
                self.other = Some(process);
                self.kill();
            }
        }
    }
}

impl Surroundings {
    /// Called at the server's end of the link.
    pub fn new(folder: &Path, log: Option<PathBuf>) -> io::Result<Self> {
        let mut around = Self {
            folder: folder.to_owned(),
            log,
            sshd: None,
        };
        if Peer::Sshfs.is_installed() {
            around.sshd = around.start_sshd()?;
        }
        Ok(around)
    }

    fn start_sshd(&self) -> io::Result<Option<Child>> {
        let Some(program) = sshd() else {
            return Ok(None);
        };
        let path = |name: &str| self.folder.join(name).display().to_string();
        for key in ["key", "host-key"] {
            let file = path(key);
            let mut keygen = Command::new("ssh-keygen");
            keygen
                .args(["-q", "-t", "ed25519", "-N", "", "-f", &file])
                .stdin(Stdio::null());
            if !keygen.status()?.success() {
                return Err(io::Error::other("ssh-keygen failed"));
            }
        }
        let configuration = format!(
            "Port {SSH_PORT}\nListenAddress {SERVER}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
             PermitRootLogin yes\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n",
            path("host-key"),
            path("key.pub"),
        );
        fs::write(path("sshd.conf"), configuration)?;
        fs::create_dir_all("/run/sshd")?;
        fs::set_permissions("/run/sshd", fs::Permissions::from_mode(0o755))?;
        let log = fs::File::create(path("sshd.log"))?;
        let mut command = Command::new(program);
        command.args(["-D", "-e", "-f", &path("sshd.conf")]);
        Ok(Some(command.stdin(Stdio::null()).stderr(log).spawn()?))
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        if let Some(sshd) = &mut self.sshd {
            let _ = sshd.kill();
            let _ = sshd.wait();
        }
    }
}

/// Whole files are cached where it could not change them otherwise.
fn rclone(row: &str, server: &RealServer, around: &Surroundings) -> io::Result<Command> {
    let obscured = Command::new("rclone")
        .args(["obscure", PASSWORD])
        .output()?;
    let mode = match row {
        "append" | "change" => "writes",
        _ => "off",
    };
    let cache = around.folder.join("rclone");
    let _ = fs::remove_dir_all(&cache);
    let mut command = Command::new("rclone");
    command.args([
        "mount",
        ":ftp:/",
        "--config",
        "/dev/null",
        "--ftp-host",
        SERVER,
    ]);
    command.args([
        "--ftp-port",
        &server.port().to_string(),
        "--ftp-user",
        USER,
        "--ftp-pass",
    ]);
    command.arg(String::from_utf8_lossy(&obscured.stdout).trim());
    command.args([if server.kind.is_implicit() {
        "--ftp-tls"
    } else {
        "--ftp-explicit-tls"
    }]);
    command.args([
        // Its sessions under TLS 1.3 are not resumed, which vsftpd and ProFTPD demand.
        "--ftp-disable-tls13",
        "--ftp-no-check-certificate",
        "--vfs-write-back",
        "0s",
        "--vfs-cache-mode",
        mode,
    ]);
    command.arg("--cache-dir").arg(cache);
    Ok(command)
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn sshd() -> Option<PathBuf> {
    let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd"];
    places.iter().map(PathBuf::from).find(|path| path.is_file())
}
