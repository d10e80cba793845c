//! The program as users call it: arguments, exit codes, one-line messages, processes and mounts.
//! The server is the embedded one; real servers are mounted by `tests/mounts`.

mod bench;
mod diagnostics;
mod doctor;
mod fstab;
mod hostile;
mod install;
mod kept;
mod leaving;
mod life;
mod open;
mod passed;
mod recover;
mod special;
mod status;
