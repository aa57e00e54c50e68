//! The lifelines of a time–sequence diagram: who takes part in a flow's incident, and where each is drawn.

use std::net::SocketAddr;

use tracer_engine::flow::Flow;
use tracer_model::capture::Host;
use tracer_model::cause::{Cause, ResetBy};

use crate::html::canvas::{LINE, columns, width_of, wrap};

/// Columns of an address before it is broken.
const ADDRESS: usize = 24;
/// Where the axis of time is.
pub(super) const AXIS: i32 = 132;
/// Width of a column of the gateway's.
const INNER: i32 = 176;
/// Least width of a column of an end's.
const OUTER: i32 = 136;
/// Room at the sides of a column's heading.
const PADDING: i32 = 12;

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// The side that opened the connection.
    Client,
    /// The gateway's conntrack, and NAT with it.
    Conntrack,
    /// The part of the gateway that makes the RST.
    Maker,
    /// The other side.
    Server,
}

/// A lifeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) lane: Lane,
    /// Its place.
    pub(super) x: i32,
    /// Its name.
    pub(super) name: &'static str,
    /// The lines below its name.
    pub(super) lines: Vec<String>,
}

/// The lifelines of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lanes {
    pub(super) lines: Vec<Line>,
    /// Left and right edge of the gateway.
    pub(super) gateway: (i32, i32),
    /// The gateway's name, and addresses.
    pub(super) title: Vec<String>,
    /// Width of the whole picture.
    pub(super) width: i32,
    /// Where the headings end.
    pub(super) top: i32,
    /// The end whose address is the gateway's own.
    own: Option<&'static str>,
}

impl Lanes {
    /// The lifelines of this flow's incident.
    pub(super) fn of(flow: &Flow, host: &Host) -> Self {
        let own = own_end(flow);
        let key = &flow.key;
        let maker = flow.incident.reset.as_ref().map(|reset| match reset.by {
            ResetBy::GatewayRejectRule => "REJECT rule",
            ResetBy::GatewaySocket => "socket",
            ResetBy::GatewayStack | ResetBy::Peer => "TCP stack",
        });
        let taking_part = [
            (own != Some("client")).then(|| (Lane::Client, "client", address(key.client()))),
            Some((Lane::Conntrack, "conntrack", vec!["and NAT".to_owned()])),
            maker.map(|name| (Lane::Maker, name, Vec::new())),
            (own != Some("server")).then(|| (Lane::Server, "server", address(key.server()))),
        ];
        let mut title = vec![format!("gateway {}", host.hostname.trim())];
        title.extend(key.nat().map(|nat| format!("the client is {nat} behind it")));
        title.extend(key.service().map(|service| format!("the server is {service} before it")));
        if let Some(end) = own {
            let address = if end == "client" { key.client() } else { key.server() };
            // That a segment was for an address of the gateway's does not make it an end of the connection.
            let is_end = matches!(flow.incident.diagnosis.cause, Cause::NoListener | Cause::LocalSocket);
            title.push(if is_end { format!("itself the {end}: {address}") } else { format!("addressed as {address}") });
        }
        let (mut x, mut gateway, mut lines) = (AXIS, (0, 0), Vec::new());
        for (lane, name, below) in taking_part.into_iter().flatten() {
            let inner = matches!(lane, Lane::Conntrack | Lane::Maker);
            let heading = below.iter().map(|line| width_of(line)).max().unwrap_or(0).max(width_of(name)) + 2 * PADDING;
            // A gateway of one column has room for what it is called, as one of two has.
            let width = match (inner, maker) {
                (true, None) => 2 * INNER,
                (true, Some(_)) => INNER,
                (false, _) => heading.max(OUTER),
            };
            if inner {
                gateway = (if gateway.0 == 0 { x } else { gateway.0 }, x + width);
            }
            lines.push(Line { lane, x: x + width / 2, name, lines: below });
            x += width;
        }
        let room = columns(gateway.1 - gateway.0 - 2 * PADDING);
        let title: Vec<String> = title.iter().flat_map(|line| wrap(line, room, 3)).collect();
        let outer = lines.iter().map(|line| line.lines.len()).max().unwrap_or(0);
        let rows = i32::try_from((title.len() + 2).max(outer + 1)).unwrap_or(i32::MAX / 64);
        Self { lines, gateway, title, width: x + PADDING, top: 14 + rows * LINE + 8, own }
    }

    /// The lifeline of an end, by its name in the report; where the gateway is that end, what it answers with.
    pub(super) fn end(&self, end: &str) -> Option<&Line> {
        match end {
            _ if self.own == Some(end) => self.line(Lane::Maker).or_else(|| self.line(Lane::Conntrack)),
            "client" => self.line(Lane::Client),
            "server" => self.line(Lane::Server),
            _ => None,
        }
    }

    /// A lifeline.
    pub(super) fn line(&self, lane: Lane) -> Option<&Line> {
        self.lines.iter().find(|line| line.lane == lane)
    }
}

/// The end of a flow whose address is the gateway's own, and not one that it translates.
fn own_end(flow: &Flow) -> Option<&'static str> {
    let reset = flow.incident.reset.as_ref().filter(|reset| reset.by != ResetBy::GatewayRejectRule)?;
    let own = reset.event.tuple()?.dst;
    if own == flow.key.client() {
        Some("client")
    } else if own == flow.key.server() && flow.key.service() != Some(own) {
        Some("server")
    } else {
        None
    }
}

/// An address and port, in lines that are not too long for a heading.
fn address(endpoint: SocketAddr) -> Vec<String> {
    let text = endpoint.to_string();
    let mut lines = vec![String::new()];
    for piece in text.split_inclusive(':') {
        match lines.last_mut() {
            Some(line) if line.len() + piece.len() <= ADDRESS => line.push_str(piece),
            _ => lines.push(piece.to_owned()),
        }
    }
    lines
}
