//! ftpsfs mounts a remote FTPS server as a local file system.
//!
//! The modules form layers; each uses only those below it (see ARCHITECTURE.md):
//! `mount`/`fuse`, then `fs`, then `cache`/`remote`, then `client`/`server`, then `tls`, then
//! `proto`.

#![deny(unsafe_code)]

pub mod cache;
pub mod client;
pub mod fs;
pub mod fuse;
pub mod mount;
pub mod proto;
pub mod remote;
pub mod server;
pub mod tls;
