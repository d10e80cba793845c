//! The embedded server against MS-FTPS 3.2, RFC 4217 and the other FTP RFCs, over loopback TLS,
//! byte by byte.

mod cli;
mod client;
mod data;
mod faults;
mod files;
mod security;
mod segments;
