//! What it means that conntrack refused a packet without a word.
//!
//! The TCP tracker is silent in few places (`nf_conntrack_tcp_packet`, `tcp_new`; 5.10 to 6.6): a header that cannot be
//! read, a first packet that cannot open a connection, and, with `tcp_loose=0`, one from the middle of a connection. Which
//! it was follows from the packet, once it is known that conntrack looks at this namespace and that nothing was lost.

use tracer_common::Hook;
use tracer_model::capture::{HookState, Netns};
use tracer_model::cause::{Cause, Diagnosis, ResetBy};
use tracer_model::conntrack::{Message, Nfct};
use tracer_model::packet::Flags;

use crate::conclusion::HookLine;
use crate::flow::Flow;

/// The diagnosis of a flow whose RST answers a packet that was refused in silence; `None` where the evidence does not say.
pub fn explain_silence(flow: &Flow, hooks: &[HookLine], namespace: Option<&Netns>) -> Option<Diagnosis> {
    let reset = flow.incident.reset.as_ref()?;
    let silent = flow.incident.diagnosis.cause == Cause::Unknown
        && flow.incident.logged.is_none()
        && reset.by == ResetBy::GatewayStack
        && reset.event.nfct == Some(Nfct::None);
    if !silent || !listening(hooks) {
        return None;
    }
    let namespace = namespace?;
    if !namespace.tracks() {
        let known = namespace.entries.is_some() && namespace.invalid.is_some();
        return known.then(|| Diagnosis::plain(Cause::NotTracked));
    }
    let flags = reset.event.packet?.flags;
    if flags.has(Flags::FIN) || flags.has(Flags::SYN) {
        Some(Diagnosis::of_message(Message::InvalidNew))
    } else if namespace.sysctl("nf_conntrack_tcp_loose") == Some(0) {
        Some(Diagnosis::NEVER_SEEN)
    } else {
        None
    }
}

/// Whether conntrack's messages would have been heard.
fn listening(hooks: &[HookLine]) -> bool {
    [Hook::CtInvalid, Hook::CtMalformed].into_iter().all(|hook| {
        hooks.iter().any(|line| line.hook == hook && line.state == HookState::Attached && line.counters.lost() == 0)
    })
}
