//! Which packets belong to the same flow.

use std::net::SocketAddr;

use crate::conntrack::Tuple;

/// What makes two packets belong to the same flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    /// Inode number of the network namespace; `None` where it could not be read.
    pub netns: Option<u32>,
    /// Conntrack zone.
    pub zone: u16,
    /// The tuple of the direction that opened the connection.
    pub original: Tuple,
    /// The tuple of the other direction.
    pub reply: Tuple,
}

impl FlowKey {
    /// The side that opened the connection.
    pub const fn client(&self) -> SocketAddr {
        self.original.src
    }

    /// The side it was opened to, behind any destination NAT.
    pub const fn server(&self) -> SocketAddr {
        self.reply.src
    }

    /// The client as the server sees it, where that differs.
    pub fn nat(&self) -> Option<SocketAddr> {
        (self.reply.dst != self.original.src).then_some(self.reply.dst)
    }

    /// The server as the client sees it, where that differs.
    pub fn service(&self) -> Option<SocketAddr> {
        (self.original.dst != self.reply.src).then_some(self.original.dst)
    }
}
