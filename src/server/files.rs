//! The commands on files and folders (RFC 959, 3659, 2428 and drafts). Knows no security and no
//! login: [`super::session`] has let these commands through.

use std::io::{self, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::SFlag;

use super::data::{self, Endpoint, Failure, file_refusal, is_bounce};
use super::fault::What;
use super::listing::{Listing, Style};
use super::session::{After, Session};
use super::tree::{Tree, is, modified};
use crate::proto::{Command, Name, Pathname, RemotePath, Reply, Site, format_time, parse_time};

/// The longest listing that STAT gives over the control connection, in bytes; LIST has no limit.
const MAX_STAT: usize = 32 << 20;

/// What STOR and APPE do with content that is there.
#[derive(Clone, Copy)]
enum Place {
    Replace,
    /// REST n, STOR: writes from there on and keeps what lies behind (as vsftpd and ProFTPD do).
    From(u64),
    End,
}

impl<'a> Session<'a> {
    pub(super) fn perform_on_files(
        &mut self,
        command: Command,
        rename_from: Option<RemotePath>,
    ) -> io::Result<After> {
        use Command as C;
        match command {
            C::Pasv | C::Epsv | C::EpsvAll | C::EpsvFamily(_) | C::Port(_) | C::Eprt(_) => {
                self.endpoint(&command)
            }
            C::Retr(path) => self.retrieve(&path),
            C::Stor(path) => {
                let place = match self.state.restart {
                    0 => Place::Replace,
                    offset => Place::From(offset),
                };
                self.store(&path, place)
            }
            C::Appe(path) => self.store(&path, Place::End),
            C::Nlst(path) => self.list(path.as_ref(), Style::Names, false),
            C::List { all, path } => self.list(path.as_ref(), self.long(), all),
            C::Mlsd(path) => self.list(path.as_ref(), Style::Facts(self.state.facts), true),
            command => {
                let reply = self.reply_about_files(command, rename_from);
                self.answer(reply.unwrap_or_else(|errno| file_refusal(&errno.into())))
            }
        }
    }

    /// The commands that one reply completes.
    fn reply_about_files(
        &mut self,
        command: Command,
        rename_from: Option<RemotePath>,
    ) -> nix::Result<Reply> {
        use Command as C;
        let tree = &self.server.tree;
        let at = |path: &Pathname| self.resolve(path);
        Ok(match command {
            // Both types send the bytes as they are: text comes with its own line ends.
            C::Type { .. } => Reply::new(200, "OK"),
            C::Mode(b'S') | C::Stru(b'F') => Reply::new(200, "OK"),
            C::Mode(_) => Reply::new(504, "MODE S only"),
            C::Stru(_) => Reply::new(504, "STRU F only"),
            C::Allo(_) => Reply::new(202, "No need to allocate"),
            C::Abor => Reply::new(226, "Nothing to abort"),
            C::Rest(offset) => {
                if !self.plan.has(&What::IgnoreRest) {
                    self.state.restart = offset;
                }
                Reply::new(350, format!("The next transfer begins at {offset}"))
            }
            C::Pwd => Reply::new(257, quoted(&self.state.folder)),
            C::Cwd(path) => {
                let folder = at(&path)?;
                tree.folder(&folder)?;
                self.state.folder = folder;
                Reply::new(250, "OK")
            }
            C::Cdup => {
                let folder = &self.state.folder;
                self.state.folder = folder.parent().unwrap_or_else(RemotePath::root);
                Reply::new(200, "OK")
            }
            C::Mkd(path) => {
                let folder = at(&path)?;
                tree.make_folder(&folder)?;
                Reply::new(257, quoted(&folder))
            }
            C::Rmd(path) => done(tree.remove_folder(&at(&path)?))?,
            C::Dele(path) => done(tree.remove_file(&at(&path)?))?,
            C::Rnfr(path) => {
                let from = at(&path)?;
                tree.item(&from, b"")?;
                self.state.rename_from = Some(from);
                Reply::new(350, "RNTO, please")
            }
            C::Rnto(path) => match rename_from {
                Some(from) => done(self.rename(&from, &path))?,
                None => Reply::new(503, "RNFR comes first"),
            },
            C::Size(path) => {
                let stat = tree.stat(&at(&path)?)?;
                if is(&stat, SFlag::S_IFREG) {
                    let lie = self.plan.find(|what| match what {
                        What::Size(by) => Some(*by),
                        _ => None,
                    });
                    let size = stat.st_size.saturating_add(lie.unwrap_or(0)).max(0);
                    Reply::new(213, size.to_string())
                } else {
                    Reply::new(550, "Not a plain file")
                }
            }
            C::Mdtm(path) => {
                let time = modified(&tree.stat(&at(&path)?)?);
                Reply::new(213, format_time(time + self.server.config.mdtm_slip))
            }
            C::MdtmSet { time, path } => {
                tree.set_time(&at(&path)?, time - self.server.config.mdtm_slip)?;
                facts_set(&format!("Modify={};", format_time(time)), &path)
            }
            C::Mfmt { time, path } => {
                tree.set_time(&at(&path)?, time)?;
                facts_set(&format!("Modify={};", format_time(time)), &path)
            }
            C::Mff { facts, path } => match parse_facts(&facts) {
                Some(wanted) => {
                    let file = at(&path)?;
                    let set = apply_facts(tree, &file, &wanted)?;
                    facts_set(&set, &path)
                }
                None => Reply::new(504, "Only modify and UNIX.mode can be set"),
            },
            C::Mlst(path) => self.mlst(path.as_ref())?,
            C::Stat { path: None, .. } => self.status(),
            C::Stat {
                path: Some(path),
                all,
            } => self.stat_listing(&path, all)?,
            C::Avbl(path) => {
                let place = match &path {
                    Some(path) => at(path)?,
                    None => self.state.folder.clone(),
                };
                Reply::new(213, tree.space(&place)?.to_string())
            }
            C::Site(Site::Chmod { mode, path }) => done(tree.set_mode(&at(&path)?, mode))?,
            C::Site(Site::Utime { time, path }) => done(tree.set_time(&at(&path)?, time))?,
            C::Site(Site::Symlink { target, link }) => {
                done(tree.link(target.as_bytes(), &at(&link)?))?
            }
            C::Site(_) => Reply::new(504, "No such SITE command"),
            _ => Reply::new(502, "Command not implemented"),
        })
    }

    /// RFC 959, RFC 2428.
    fn endpoint(&mut self, command: &Command) -> io::Result<After> {
        let ipv4 = self.local.ip().is_ipv4();
        let other_family = if ipv4 {
            "Network protocol not supported, use (1)"
        } else {
            "Network protocol not supported, use (2)"
        };
        let announced = std::mem::take(&mut self.state.announced);
        match *command {
            Command::Epsv | Command::EpsvFamily(_) | Command::Pasv
                if self.server.config.wants_pret && !announced =>
            {
                self.reply(503, "PRET comes first")
            }
            Command::EpsvAll => {
                self.state.only_epsv = true;
                self.reply(200, "EPSV only from now on")
            }
            Command::EpsvFamily(family) if (family == 1) != ipv4 => self.reply(522, other_family),
            Command::Epsv | Command::EpsvFamily(_) => match self.listen() {
                Ok(port) => self.reply(229, format!("Entering Extended Passive Mode (|||{port}|)")),
                Err(e) => self.reply(425, format!("No port to listen on: {e}")),
            },
            _ if self.state.only_epsv => self.reply(501, "EPSV ALL is in force"),
            Command::Eprt(address) if address.is_ipv4() != ipv4 => self.reply(522, other_family),
            Command::Eprt(address) => self.active(address),
            Command::Port(address) => self.active(address.into()),
            _ => {
                let IpAddr::V4(address) = self.local.ip() else {
                    return self.reply(425, "PASV is for IPv4, use EPSV");
                };
                match self.listen() {
                    Ok(port) => {
                        let named = self.plan.find(|what| match what {
                            What::Address(address) => Some(*address),
                            _ => None,
                        });
                        let [a, b, c, d] = named.unwrap_or(address).octets();
                        let [high, low] = port.to_be_bytes();
                        let at = format!("{a},{b},{c},{d},{high},{low}");
                        self.reply(227, format!("Entering Passive Mode ({at})"))
                    }
                    Err(e) => self.reply(425, format!("No port to listen on: {e}")),
                }
            }
        }
    }

    fn active(&mut self, address: SocketAddr) -> io::Result<After> {
        if is_bounce(address, self.peer) {
            return self.reply(504, "Only to your own address, and not below port 1024");
        }
        self.state.endpoint = Some(Endpoint::Active(address));
        self.reply(200, "OK")
    }

    fn retrieve(&mut self, path: &Pathname) -> io::Result<After> {
        let offset = std::mem::take(&mut self.state.restart);
        if self.plan.has(&What::Change) {
            let path = self.resolve(path).map_err(io::Error::from);
            if let Err(e) = path.and_then(|path| self.server.tree.invert(&path)) {
                log::warn!("a fault rule could not change the file: {e}");
            }
        }
        let opened = self
            .resolve(path)
            .and_then(|path| self.server.tree.read(&path))
            .map_err(io::Error::from)
            .and_then(|file| file.metadata().map(|metadata| (file, metadata.len())));
        let (mut file, size) = match opened {
            Ok(opened) => opened,
            Err(e) => return self.refuse_transfer(file_refusal(&e)),
        };
        if offset > size {
            let text = format!("REST {offset} is past the end at {size}");
            return self.refuse_transfer(Reply::new(554, text));
        }
        self.transfer("RETR", move |data, plan| {
            file.seek(SeekFrom::Start(offset)).map_err(Failure::File)?;
            data::send_file(data, file, plan)
        })
    }

    /// The old content goes only once the data connection stands.
    fn store(&mut self, path: &Pathname, place: Place) -> io::Result<After> {
        self.state.restart = 0;
        let opened = self
            .resolve(path)
            .and_then(|path| {
                let how = match place {
                    Place::Replace => OFlag::O_CREAT,
                    Place::From(_) => OFlag::empty(),
                    Place::End => OFlag::O_CREAT | OFlag::O_APPEND,
                };
                self.server.tree.write(&path, how)
            })
            .map_err(io::Error::from)
            .and_then(|file| file.metadata().map(|metadata| (file, metadata.len())));
        let (mut file, size) = match opened {
            Ok(opened) => opened,
            Err(e) => return self.refuse_transfer(file_refusal(&e)),
        };
        if let Place::From(offset) = place
            && offset > size
        {
            let text = format!("REST {offset} is past the end at {size}");
            return self.refuse_transfer(Reply::new(554, text));
        }
        let verb = match place {
            Place::End => "APPE",
            Place::Replace | Place::From(_) => "STOR",
        };
        // What servers that demand resumption do, before they refuse for want of it.
        let cut = |what: &What| matches!(what, What::NoResumption(Some(_))).then_some(());
        if let Place::Replace = place
            && self.plan.find(cut).is_some()
        {
            let _ = file.set_len(0);
        }
        self.transfer(verb, move |data, plan| {
            let placed = match place {
                Place::Replace => file.set_len(0),
                Place::From(offset) => file.seek(SeekFrom::Start(offset)).map(drop),
                Place::End => Ok(()),
            };
            placed.map_err(Failure::File)?;
            data::receive_file(data, file, plan)
        })
    }

    /// A refusal uses up the data connection that was prepared, as on other servers.
    fn refuse_transfer(&mut self, reply: Reply) -> io::Result<After> {
        self.state.endpoint = None;
        self.answer(reply)
    }

    fn list(&mut self, path: Option<&Pathname>, style: Style, all: bool) -> io::Result<After> {
        let listing = match self.listing(path, style, all) {
            Ok(listing) => listing,
            Err(errno) => return self.refuse_transfer(file_refusal(&errno.into())),
        };
        if matches!(style, Style::Facts(_)) && !listing.is_folder() {
            return self.refuse_transfer(Reply::new(501, "MLSD is for folders, use MLST"));
        }
        let verb = match style {
            Style::Names => "NLST",
            Style::List { .. } | Style::Dir { .. } => "LIST",
            Style::Facts(_) => "MLSD",
        };
        self.transfer(verb, move |data, plan| {
            data::send_lines(data, plan, |line| {
                listing.lines(SystemTime::now(), line)?;
                for what in plan.all() {
                    if let What::Line(text) = what {
                        line(text)?;
                    }
                }
                for n in 0_u64.. {
                    if !plan.has(&What::EndlessListing) {
                        break;
                    }
                    line(style.invented(n).as_bytes())?;
                }
                Ok(())
            })
        })
    }

    /// What LIST and STAT show.
    fn long(&self) -> Style {
        let zone = self.server.config.zone;
        match self.server.config.windows {
            true => Style::Dir { zone },
            false => Style::List { zone },
        }
    }

    /// Windows replaces nothing; that only the case changes is fine with it.
    fn rename(&self, from: &RemotePath, to: &Pathname) -> nix::Result<()> {
        let tree = &self.server.tree;
        let mut target = self.resolve(to)?;
        if self.server.config.windows {
            let name = to.as_bytes().rsplit(|&b| b == b'/').next();
            if target == *from
                && let Some(folder) = target.parent()
                && let Some(name) = name.and_then(|name| Name::parse(name).ok())
            {
                target = folder.join(&name);
            } else if tree.item(&target, b"").is_ok() {
                return Err(Errno::EEXIST);
            }
        }
        tree.rename(from, &target)
    }

    fn listing(
        &self,
        path: Option<&Pathname>,
        style: Style,
        all: bool,
    ) -> nix::Result<Listing<'a>> {
        let (target, shown) = match path {
            Some(path) => (self.resolve(path)?, path.as_bytes()),
            None => (self.state.folder.clone(), &b""[..]),
        };
        Listing::new(&self.server.tree, target, shown, style, all)
    }

    /// RFC 3659 section 7: one line of facts, which begins with a space, over the control
    /// connection. A symbolic link shows as itself, as it does in MLSD.
    fn mlst(&self, path: Option<&Pathname>) -> nix::Result<Reply> {
        let target = match path {
            Some(path) => self.resolve(path)?,
            None => self.state.folder.clone(),
        };
        let line = Listing::mlst_line(&self.server.tree, &target, self.state.facts)?;
        Ok(lines(250, "Listing", [line]))
    }

    /// STAT of a path: LIST's lines over the control connection (RFC 959: 212 for a folder, 213
    /// for a file).
    fn stat_listing(&self, path: &Pathname, all: bool) -> nix::Result<Reply> {
        let listing = self.listing(Some(path), self.long(), all)?;
        let code = if listing.is_folder() { 212 } else { 213 };
        let mut entries = Vec::new();
        let mut size = 0;
        listing.lines(SystemTime::now(), &mut |line: &[u8]| {
            size += line.len() + 2;
            if size > MAX_STAT {
                return Err(Errno::E2BIG);
            }
            entries.push(line.to_vec());
            Ok(())
        })?;
        Ok(lines(code, "Status follows", entries))
    }

    fn status(&self) -> Reply {
        let protected = if self.control.is_tls() {
            "under TLS"
        } else {
            "clear"
        };
        let status = [
            format!(
                " Connected from {}, control connection {protected}",
                self.peer
            ),
            format!(" Data protection: {:?}", self.state.protection),
            " TYPE I, MODE S, STRU F".to_owned(),
        ];
        lines(211, "ftpsfs server", status.map(String::into_bytes))
    }

    /// `/` separates, `.` and `..` mean what they do in Unix (TVFS, RFC 3659 section 6); above
    /// the root there is nothing but the root.
    fn resolve(&self, path: &Pathname) -> nix::Result<RemotePath> {
        let path = path.as_bytes();
        let mut at = if path.starts_with(b"/") {
            RemotePath::root()
        } else {
            self.state.folder.clone()
        };
        for component in path.split(|&b| b == b'/') {
            at = match component {
                b"" | b"." => at,
                b".." => at.parent().unwrap_or_else(RemotePath::root),
                name if self.server.config.wants_clnt && !self.state.utf8 && !name.is_ascii() => {
                    return Err(Errno::EILSEQ);
                }
                name => {
                    let name = Name::parse(name).map_err(|_| Errno::EINVAL)?;
                    match self.server.config.windows {
                        true => self.server.tree.spelt(&at, &name),
                        false => at.join(&name),
                    }
                }
            };
        }
        Ok(at)
    }
}

/// What MFF sets (draft-somers-ftp-mfxx).
struct NewFacts {
    modify: Option<SystemTime>,
    mode: Option<u16>,
}

/// `None` where a fact is unknown or malformed: then none is set.
fn parse_facts(facts: &str) -> Option<NewFacts> {
    let mut new = NewFacts {
        modify: None,
        mode: None,
    };
    for fact in facts.split(';').filter(|fact| !fact.is_empty()) {
        let (name, value) = fact.split_once('=')?;
        match name.to_ascii_lowercase().as_str() {
            "modify" => new.modify = Some(parse_time(value.as_bytes())?),
            "unix.mode" => new.mode = Some(u16::from_str_radix(value, 8).ok()?),
            _ => return None,
        }
    }
    Some(new)
}

/// What was set, as the reply has it.
fn apply_facts(tree: &Tree, file: &RemotePath, new: &NewFacts) -> nix::Result<String> {
    let mut set = String::new();
    if let Some(mode) = new.mode {
        tree.set_mode(file, mode)?;
        set += &format!("UNIX.mode={mode:04o};");
    }
    if let Some(time) = new.modify {
        tree.set_time(file, time)?;
        set += &format!("Modify={};", format_time(time));
    }
    Ok(set)
}

fn facts_set(facts: &str, path: &Pathname) -> Reply {
    Reply::new(213, [facts.as_bytes(), b" ", path.as_bytes()].concat())
}

fn done(result: nix::Result<()>) -> nix::Result<Reply> {
    result.map(|()| Reply::new(250, "OK"))
}

/// RFC 959 Appendix II: in quotes, quotes within doubled.
fn quoted(path: &RemotePath) -> Vec<u8> {
    let mut text = vec![b'"'];
    for &byte in path.as_bytes() {
        if byte == b'"' {
            text.push(b'"');
        }
        text.push(byte);
    }
    text.push(b'"');
    text
}

/// A reply of several lines, closed by `End`.
fn lines(code: u16, first: &str, between: impl IntoIterator<Item = Vec<u8>>) -> Reply {
    let mut reply = Reply::new(code, first);
    reply.lines.extend(between);
    reply.lines.push(b"End".to_vec());
    reply
}
