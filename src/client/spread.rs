//! Many questions on several sessions at a time: a server answers each session's one after another, and has
//! more than one processor.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::proto::{Command, Reply};

use super::{Error, Lease, Pool, Session};

/// For fewer questions another session is of no use: this is about what a server answers in a round trip.
const SHARE: usize = 1000;
/// Sessions that help at the most.
const HELPERS: usize = 3;
/// One that is silent for so long is no help.
const PATIENCE: Duration = Duration::from_secs(5);

impl Pool {
    /// [`Session::pipeline`] for questions that any session may ask. Those that are idle, and can be spared,
    /// take equal shares from the beginning; what one of them fails at is asked on `session`, like the rest.
    pub fn pipeline(
        self: &Arc<Self>,
        session: &mut Session,
        commands: &[Command],
        deadline: Instant,
    ) -> Result<Vec<Reply>, Error> {
        let most = (commands.len() / SHARE).saturating_sub(1).min(HELPERS);
        let helpers: Vec<Lease> = (0..most).map_while(|_| self.spare()).collect();
        let share = commands.len() / (helpers.len() + 1);
        let (theirs, ours) = commands.split_at(share * helpers.len());
        thread::scope(|scope| {
            let parts: Vec<_> = (helpers.into_iter())
                .zip(theirs.chunks_exact(share.max(1)))
                .map(|(lease, part)| {
                    let thread = thread::Builder::new().name("share".to_owned());
                    (
                        part,
                        thread.spawn_scoped(scope, || help(lease, part, deadline)),
                    )
                })
                .collect();
            let rest = session.pipeline(ours, deadline);
            let mut replies = Vec::with_capacity(commands.len());
            for (part, helper) in parts {
                let answered = helper.ok().and_then(|helper| helper.join().ok().flatten());
                match (answered, &rest) {
                    (Some(answered), _) => replies.extend(answered),
                    (None, Ok(_)) => replies.extend(session.pipeline(part, deadline)?),
                    (None, Err(_)) => {}
                }
            }
            replies.extend(rest?);
            Ok(replies)
        })
    }
}

/// In half of the time, so that the other half is left for another session.
fn help(mut lease: Lease, part: &[Command], deadline: Instant) -> Option<Vec<Reply>> {
    let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
    lease.set_patience(Some(PATIENCE));
    let answered = lease.pipeline(part, half);
    lease.set_patience(None);
    answered
        .inspect_err(|error| log::debug!("a share of many questions: {error}"))
        .ok()
}
