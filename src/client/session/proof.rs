//! What must be proven before a transfer is begun: that data connections work, that they are protected,
//! and that there is a TLS session to resume where the server demands that. A STOR that is refused for
//! want of one has emptied its target by then.

use std::time::Instant;

use rustls::HandshakeKind;

use super::{Endpoint, Session, Transfer, is_store, read_to_end};
use crate::client::Error;
use crate::client::profile::Resumption;
use crate::proto::{Command, NegotiationError, Protection, Reply, Security};

/// What proves that data connections work: any folder's listing does.
const LIST: Command = Command::List {
    all: false,
    path: None,
};

impl Session {
    /// Makes sure that `command` cannot fail for want of PROT P or of a TLS session to resume
    /// where a LIST would show that first: a refused STOR truncates its target.
    pub(super) fn prove_data(&mut self, command: &Command, deadline: Instant) -> Result<(), Error> {
        let profile = self.profile();
        if profile.implicit_needs_prot && !self.negotiation.sends_prot() {
            self.protect(deadline)?;
        }
        if self.server.config.security == Security::Implicit && !profile.data_proven {
            return self.prove_implicit(command, deadline);
        }
        if is_store(command) && profile.resumption != Resumption::Optional && !self.tls.can_resume()
        {
            let endpoint = Endpoint::open(self, &LIST, None, deadline)?;
            self.list_proof(endpoint, deadline)?;
        }
        Ok(())
    }

    /// On an implicit server that is not yet proven the first data transfer is a LIST, never a
    /// STOR or RETR; where it shows that the server wants PBSZ 0 and PROT P nonetheless, they
    /// are sent, now and on every later connection.
    fn prove_implicit(&mut self, command: &Command, deadline: Instant) -> Result<(), Error> {
        // A data port that cannot be reached shows nothing.
        let endpoint = Endpoint::open(self, &LIST, None, deadline)?;
        let mut result = self.list_proof(endpoint, deadline);
        let lacks_prot = match &result {
            _ if self.negotiation.sends_prot() => false,
            Ok(reply) => matches!(reply.code.as_u16(), 425 | 426 | 520..530),
            Err(Error::Tls(_) | Error::Lost { .. }) => true,
            Err(_) => false,
        };
        if lacks_prot {
            log::debug!(
                "{}: implicit, but wants PBSZ 0 and PROT P",
                self.server.name()
            );
            self.learn(|p| p.implicit_needs_prot = true);
            if result.is_err() {
                // The LIST's final reply is still to come, or came unread.
                self.resynchronize(deadline)?;
            }
            self.protect(deadline)?;
            let endpoint = Endpoint::open(self, &LIST, None, deadline)?;
            result = self.list_proof(endpoint, deadline);
        }
        let reply = result?;
        // A refused LIST (no permission here, say) proves nothing: what cannot harm goes on.
        if reply.code.is_completion() || !(lacks_prot || is_store(command)) {
            return Ok(());
        }
        Err(Error::refused(&LIST, reply))
    }

    /// PBSZ 0 and PROT P, on an implicit server that needs them after all.
    fn protect(&mut self, deadline: Instant) -> Result<(), Error> {
        let protect = [Command::Pbsz(0), Command::Prot(Protection::Private)];
        for reply in self.try_pipeline(&protect, deadline)? {
            if !reply.code.is_completion() {
                return Err(NegotiationError::NoProtection(reply).into());
            }
        }
        self.negotiation.send_prot();
        Ok(())
    }

    /// One LIST of the current folder, to its final reply. What it lists does not matter.
    fn list_proof(&mut self, endpoint: Endpoint, deadline: Instant) -> Result<Reply, Error> {
        let begun = match self.begin_on(endpoint, &[], &LIST, deadline)? {
            Some(begun) => begun,
            None => {
                let another = Endpoint::open(self, &LIST, None, deadline)?;
                self.begin_on(another, &[], &LIST, deadline)?
                    .ok_or_else(|| Error::lost("LIST", "no data connection"))?
            }
        };
        match begun.transfer {
            Transfer::Refused(reply) => Ok(reply),
            Transfer::Started(mut data) => {
                data.set_patience(self.patience);
                read_to_end(&mut data, deadline)?;
                self.finish_download(*data, LIST.verb(), deadline)
            }
        }
    }

    pub(super) fn learn_from_success(&self, handshake: Option<HandshakeKind>) {
        self.learn(|p| {
            p.data_proven = true;
            if handshake.is_some_and(|kind| kind != HandshakeKind::Resumed) {
                p.resumption = Resumption::Optional;
            }
        });
    }

    /// 522 or 425 where no session was resumed. After a full handshake, on a server that never
    /// took one, it means that the server demands resumption (vsftpd, ProFTPD), and another
    /// connection has a session to resume. Else it may pass: the data port was taken, or
    /// firewalled. On an implicit server that may want PROT P first, it says nothing of this.
    pub(super) fn check_resumption(
        &self,
        handshake: Option<HandshakeKind>,
        reply: &Reply,
    ) -> Result<(), Error> {
        let profile = self.profile();
        let may_lack_prot =
            !self.negotiation.sends_prot() && (profile.implicit_needs_prot || !profile.data_proven);
        let resumed = handshake == Some(HandshakeKind::Resumed);
        if resumed || may_lack_prot || !matches!(reply.code.as_u16(), 425 | 522) {
            return Ok(());
        }
        if handshake.is_none() || profile.resumption == Resumption::Optional {
            return Err(Error::lost("opening a data connection", reply));
        }
        self.learn(|p| p.resumption = Resumption::Demanded);
        Err(Error::NoResumption(reply.to_string()))
    }

    /// Nothing is left for its data connections to resume, where that is demanded.
    pub(in crate::client) fn is_spent(&self) -> bool {
        let profile = self.profile();
        let demanded = match profile.resumption {
            Resumption::Demanded => true,
            Resumption::Unknown => profile.uploads_bring_no_ticket,
            Resumption::Optional => false,
        };
        demanded && !self.tls.can_resume()
    }
}
