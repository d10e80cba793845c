//! The whole product: the real binary mounts real servers, and ordinary programs use the mounts.

mod caps;
#[path = "../common/mod.rs"]
mod common;
mod contention;
mod desktop;
mod doctor;
mod every_server;
mod hardship;
mod kept;
mod life;
mod recover;
mod refusals;
mod write_back;
mod writes;
