//! Ports for servers that must be told theirs before they start.
//!
//! They lie below the kernel's ephemeral range, so no outgoing connection takes one, and each block is held by
//! a listener on its first port, so no other test process takes it either.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 10_000;
const BLOCK: u16 = 40;
const BLOCKS: u16 = 550;

/// Forty adjacent ports that belong to this value.
#[derive(Debug)]
pub struct PortBlock {
    base: u16,
    _held: TcpListener,
}

impl PortBlock {
    /// The next free block. Panics when there is none.
    pub fn claim() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Test processes that run side by side start their search in different places.
        let own = (std::process::id() % u32::from(BLOCKS)) as u16;
        for _ in 0..BLOCKS {
            let index = (own + NEXT.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
            let base = FIRST + index * BLOCK;
            let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if let Ok(held) = TcpListener::bind((Ipv4Addr::LOCALHOST, base))
                && free(base + 2)
            {
                return Self { base, _held: held };
            }
        }
        panic!("no free block of ports");
    }

    /// The control port; the one below it is free too, for active data connections of an implicit server.
    pub fn control(&self) -> u16 {
        self.base + 2
    }

    /// First and last passive port.
    pub fn passive(&self) -> (u16, u16) {
        (self.base + 3, self.base + BLOCK - 1)
    }
}
