//! The cause of a refusal without a message.
//!
//! The TCP tracker logs nothing in few places (`nf_conntrack_tcp_packet`, `tcp_new`; 5.10 to 6.6): a header that cannot be
//! read, a first packet that cannot open a connection, and, with `tcp_loose=0`, one from the middle of a connection. The
//! packet shows which of these it was, provided that conntrack tracks this namespace and that no event was lost.

use tracer_common::Hook;
use tracer_model::capture::{HookState, Netns};
use tracer_model::cause::{Cause, Diagnosis};
use tracer_model::conntrack::Message;
use tracer_model::packet::Flags;

use crate::flow::Flow;
use crate::hook_line::HookLine;

/// The diagnosis of a flow whose RST answers a packet that was refused without a message; `None` where the evidence is not
/// sufficient.
pub fn explain_silence(flow: &Flow, hooks: &[HookLine], namespace: Option<&Netns>) -> Option<Diagnosis> {
    let reset = flow.incident.reset.as_ref()?;
    if !flow.incident.is_refused_in_silence() || !listening(hooks) {
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

/// Whether every message of conntrack was recorded.
fn listening(hooks: &[HookLine]) -> bool {
    [Hook::CtInvalid, Hook::CtMalformed].into_iter().all(|hook| {
        hooks.iter().any(|line| line.hook == hook && line.state == HookState::Attached && line.counters.lost() == 0)
    })
}
