//! Many questions on several sessions at a time: a server answers each session's one after another, and has
//! more than one processor.

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::proto::{Command, Reply};

use super::{Error, Lease, Pool, Session};

/// For fewer questions another session is of no use: this is about what a server answers in a round trip.
const SHARE: usize = 1000;
/// Under way on a session, at least: what a server answers in a round trip, at this time for each.
const FEWEST: usize = 200;
const EACH: Duration = Duration::from_micros(100);
/// Sessions that help at the most.
const HELPERS: usize = 3;
/// One that is silent for so long is no help.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions that several sessions share. Each takes the next ones when it has got answers, so that all have done at
/// about the same time, however quickly the server serves them.
struct Shared<'a> {
    questions: &'a [Command],
    taken: Mutex<usize>,
    /// Under way on a session, at least.
    fewest: usize,
}

impl Pool {
    /// [`Session::pipeline`] for questions that any session may ask, but the last on `session`. Those that are idle,
    /// and can be spared, help with them, also if they come later; what one of them fails at is asked on `session`.
    pub fn pipeline(
        self: &Arc<Self>,
        session: &mut Session,
        commands: &[Command],
        deadline: Instant,
    ) -> Result<Vec<Reply>, Error> {
        let most = (commands.len() / SHARE).saturating_sub(1).min(HELPERS);
        if most == 0 {
            return session.pipeline(commands, deadline);
        }
        let end = commands.len() - 1;
        let mut last = Some(end..commands.len());
        let shared = Shared {
            questions: &commands[..end],
            taken: Mutex::new(0),
            fewest: FEWEST.max(session.round_trip().div_duration_f64(EACH) as usize),
        };
        let mut replies: Vec<Option<Reply>> = vec![None; commands.len()];
        thread::scope(|scope| {
            let mut helpers = Vec::new();
            let take = |under_way, room| {
                while helpers.len() < most
                    && shared.left() >= SHARE
                    && let Some(lease) = self.spare()
                {
                    let thread = thread::Builder::new().name("share".to_owned());
                    let help = || help(lease, &shared, deadline);
                    helpers.push(thread.spawn_scoped(scope, help));
                }
                let next = match helpers.is_empty() {
                    true => shared.take(room),
                    false => shared.take_share(under_way, room),
                };
                next.or_else(|| last.take())
            };
            let answer = |at: usize, reply| replies[at] = Some(reply);
            let asked = session.ask(commands, take, answer, deadline);
            if asked.is_err() {
                shared.close();
            }
            let answered = helpers.into_iter().flatten().map(|helper| helper.join());
            for (at, reply) in answered.flatten().flatten() {
                replies[at] = Some(reply);
            }
            asked
        })?;
        let left: Vec<_> = (0..commands.len())
            .filter(|&at| replies[at].is_none())
            .collect();
        let again: Vec<_> = left.iter().map(|&at| commands[at].clone()).collect();
        for (at, reply) in left.into_iter().zip(session.pipeline(&again, deadline)?) {
            replies[at] = Some(reply);
        }
        Ok(replies.into_iter().flatten().collect())
    }
}

impl Shared<'_> {
    fn left(&self) -> usize {
        self.questions.len() - *self.taken.lock()
    }

    fn take(&self, most: usize) -> Option<Range<usize>> {
        let mut taken = self.taken.lock();
        let from = *taken;
        *taken = self.questions.len().min(from + most);
        (from < self.questions.len()).then_some(from..*taken)
    }

    /// What a session that has so many under way takes next: the fewer the fewer are left, so that none has many when
    /// the others have done.
    fn take_share(&self, under_way: usize, room: usize) -> Option<Range<usize>> {
        let share = self.fewest.max(self.left() / (4 * HELPERS));
        match under_way > share / 2 {
            true => self.take(0),
            false => self.take(room.min(share - under_way)),
        }
    }

    fn close(&self) {
        *self.taken.lock() = self.questions.len();
    }
}

/// What it got for answers. It takes half of the time at most, so that the other half is left for another session.
fn help(mut lease: Lease, shared: &Shared, deadline: Instant) -> Vec<(usize, Reply)> {
    let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
    let mut answers = Vec::new();
    let take = |under_way, room| shared.take_share(under_way, room);
    let answer = |at, reply| answers.push((at, reply));
    lease.set_patience(Some(PATIENCE));
    let asked = lease.ask(shared.questions, take, answer, half);
    lease.set_patience(None);
    if let Err(error) = asked {
        log::debug!("a share of many questions: {error}");
    }
    answers
}
