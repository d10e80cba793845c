//! What the kernel is told: the one table from failures to errno.

use fuser::Errno;

use crate::fs::Error;
use crate::remote;

pub(super) fn errno(error: &Error) -> Errno {
    match error {
        Error::Remote { cause, .. } => of_remote(cause),
        Error::WouldWait => Errno::EAGAIN,
        Error::ReadOnly => Errno::EROFS,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::InvalidName | Error::NotALink => Errno::EINVAL,
        Error::Stale => Errno::ESTALE,
        Error::AlreadyExists => Errno::EEXIST,
        Error::NotPermitted(_) => Errno::EPERM,
        Error::Invalid(_) => Errno::EINVAL,
        Error::Unsupported(_) => Errno::EOPNOTSUPP,
        Error::NoSpace(_) => Errno::ENOSPC,
        Error::TooLarge => Errno::EFBIG,
        Error::Spool(_) => Errno::EIO,
        Error::NotAFile => Errno::ENXIO,
        Error::Busy => Errno::EBUSY,
        Error::TimedOut => Errno::ETIMEDOUT,
    }
}

fn of_remote(cause: &remote::Error) -> Errno {
    match cause {
        remote::Error::NotFound => Errno::ENOENT,
        remote::Error::Exists => Errno::EEXIST,
        remote::Error::NotEmpty => Errno::ENOTEMPTY,
        remote::Error::NotDirectory => Errno::ENOTDIR,
        remote::Error::IsDirectory => Errno::EISDIR,
        remote::Error::Denied(_) => Errno::EACCES,
        remote::Error::NoSpace(_) => Errno::ENOSPC,
        remote::Error::Quota(_) => Errno::EDQUOT,
        remote::Error::InvalidName => Errno::EINVAL,
        remote::Error::PathTooLong => Errno::ENAMETOOLONG,
        remote::Error::Unsupported(_) => Errno::EOPNOTSUPP,
        remote::Error::Changed | remote::Error::Lost(_) | remote::Error::Failed(_) => Errno::EIO,
        remote::Error::TimedOut(_) => Errno::ETIMEDOUT,
    }
}
