//! Paths that do not hold still: a directory on the way is renamed while its files are worked with, and the server may
//! read a path when it is another file's, or nobody's. What came of it then is asked for once more.
//!
//! Must not know the server or the kernel.

use std::time::Instant;

use super::inodes::Moment;
use super::{Error, Fs, Ino, Patience};

impl Fs {
    /// Runs an operation on what is at or in `ino`: once more where it failed while we ourselves were giving that, or
    /// a directory on the way to it, another name.
    pub fn steadily<T>(
        &self,
        ino: Ino,
        patience: Patience,
        run: impl Fn() -> Result<T, Error>,
    ) -> Result<T, Error> {
        loop {
            let moment = self.inodes.moment();
            let done = run();
            let (Err(Error::Remote { .. }), Patience::Until(deadline)) = (&done, patience) else {
                return done;
            };
            if !self.is_moving(ino, moment, patience)? || Instant::now() >= deadline {
                return done;
            }
        }
    }

    /// Whether a file, or a directory on the way to it, has or had another name since; what is under way is waited
    /// for.
    pub(super) fn is_moving(
        &self,
        ino: Ino,
        since: Moment,
        patience: Patience,
    ) -> Result<bool, Error> {
        if self.is_still(since) {
            return Ok(false);
        }
        let way = self.inodes.way(ino);
        if self.files.are_changing(&way) {
            self.files.await_changes(&way, patience.deadline()?);
        }
        Ok(self.inodes.has_moved(ino, since))
    }

    /// Whether no name at all is another since, or is about to be.
    pub(super) fn is_still(&self, since: Moment) -> bool {
        !self.files.is_any_changing() && self.inodes.moment() == since
    }

    /// Waits until nothing is under way that we ourselves are making of a file, or of a directory on the way to it.
    pub(super) fn await_changes(&self, ino: Ino, deadline: Instant) {
        self.files.await_changes(&self.inodes.way(ino), deadline);
    }
}
