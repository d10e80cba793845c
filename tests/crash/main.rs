//! Crashes: the real daemon, killed or without power at random moments under a load of changes, and what
//! the server has after the next mount of what had been acknowledged.
//!
//! Each run prints its seed; `FTPSFS_SEED=N` repeats its choices, though not its timing.

#[path = "../common/mod.rs"]
mod common;
mod disk;
mod kill;
mod ledger;
mod load;
mod power;
mod rig;
mod torn;
