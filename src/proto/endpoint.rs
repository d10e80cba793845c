//! Data connection endpoints in replies: PASV (RFC 959), EPSV (RFC 2428).

use std::net::SocketAddrV4;

use super::Reply;

/// Why a reply names no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server's reply names no usable data endpoint")]
pub struct EndpointError;

/// `227 Entering Passive Mode (h1,h2,h3,h4,p1,p2)`; parentheses are optional (RFC 1123
/// 4.1.2.6). Port 0 is refused.
pub fn parse_pasv(_reply: &Reply) -> Result<SocketAddrV4, EndpointError> {
    todo!()
}

/// The port of `229 Entering Extended Passive Mode (|||port|)` (RFC 2428 3), any delimiter.
pub fn parse_epsv(_reply: &Reply) -> Result<u16, EndpointError> {
    todo!()
}
