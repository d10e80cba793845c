//! FTP as values: commands, replies, facts, listings, features, endpoints, and [`Negotiation`],
//! the state machine that takes a fresh connection to "ready".
//!
//! Sans-I/O: nothing here knows sockets, TLS, clocks, logs or threads.

mod command;
mod endpoint;
mod facts;
mod features;
mod listing;
mod negotiation;
mod path;
mod reply;
mod time;

pub use command::{AuthMechanism, Command, CommandError, Pathname, Protection, Secret, Site};
pub use endpoint::{EndpointError, parse_epsv, parse_pasv};
pub use facts::{Entry, Facts, Kind, Modify, Perm, Precision};
pub use features::Features;
pub use listing::{ListError, parse_list_line, parse_mlsx_line, split_lines};
pub use negotiation::{
    Login, Negotiation, NegotiationError, Ready, Security, Step, queues_commands, wants_one_by_one,
};
pub use path::{Name, PathError, RemotePath};
pub use reply::{Code, Reply, ReplyError, ReplyParser, parse_257};
pub use time::{format_time, parse_time};
