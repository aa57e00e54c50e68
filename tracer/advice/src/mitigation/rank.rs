//! Which cures a flow has on this host, the best first.

use std::net::{IpAddr, SocketAddr};

use tracer_engine::flow::{ConntrackVerdict, EvidenceRank, Flow};
use tracer_model::capture::Netns;
use tracer_model::cause::{Cause, Reason, ResetBy};
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::conntrack::{TcpState, Verdict};
use tracer_model::health::sysctls::{RFC_ESTABLISHED, RFC_TRANSITORY};
use tracer_model::host_context::HostContext;
use tracer_model::mitigation::MitigationId;
use tracer_model::ruleset::Candidates;

use super::sysctl::TIMEOUT_ESTABLISHED;
use super::{IGNORE_INVALID_RST, LIBERAL};

/// So many refused packets of one connection are no accident: conntrack sees half of it.
const REPEATEDLY: u64 = 3;

/// What is known of a flow's namespace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// Its facts.
    pub facts: Option<&'a Netns>,
    /// What there is around its conntrack.
    pub context: Option<&'a HostContext>,
}

/// The cures for a flow, the most thorough first. What is in force already and what cannot work here is left out.
pub fn mitigations_for(
    flow: &Flow,
    log_format: LogFormat,
    known: &Known<'_>,
    candidates: Option<&Candidates>,
) -> Vec<MitigationId> {
    if flow.incident.rank() <= EvidenceRank::Ignored {
        return Vec::new();
    }
    let diagnosis = flow.incident.diagnosis;
    let mut ids = Vec::new();
    if candidates.is_some_and(|candidates| candidates.count > 0) {
        ids.push(MitigationId::ReviewRejectRule);
    }
    let logged = refused(flow);
    let window = logged.is_some_and(|logged| logged.window.is_some()) || diagnosis.cause == Cause::OutOfWindow;
    let reason = diagnosis.reason;
    let lenient_later = matches!(reason, Some(Reason::SeqUnder | Reason::AckUnder | Reason::Overshot));
    if diagnosis.cause == Cause::OutOfWindow && lenient_later && matches!(log_format, LogFormat::E1 | LogFormat::E2) {
        ids.push(MitigationId::UpgradeKernel);
    }
    let liberal = window && known.sysctl(LIBERAL).is_none_or(|value| value == 0);
    let mut both = Vec::new();
    if drop_helps(flow) && drop_is_possible(flow, known) {
        both.push(MitigationId::DropInvalidInput);
    }
    if liberal {
        both.push(MitigationId::BeLiberal);
    }
    // Where conntrack sees only half of a connection it refuses all that follows, and dropping all of it cures nothing.
    let half = matches!(reason, Some(Reason::AckOver | Reason::SeqOver)) && flow.tally().invalid >= REPEATEDLY;
    if half {
        both.reverse();
    }
    ids.extend(both);
    let rst = known.sysctl(IGNORE_INVALID_RST);
    let may_ignore = if known.facts.is_some_and(|facts| !facts.sysctls.is_empty()) {
        rst == Some(0)
    } else {
        log_format != LogFormat::E1
    };
    if reason == Some(Reason::InvalidRst) && may_ignore {
        ids.push(MitigationId::IgnoreInvalidRst);
    }
    if untranslated_service(flow).is_some() && known.may_untrack() {
        ids.push(MitigationId::UntrackService);
    }
    match reason {
        Some(Reason::Expired) => {
            if timeout(flow).is_some_and(|name| known.sysctl(name).is_some_and(|value| value < least(name))) {
                ids.push(MitigationId::RaiseTimeout);
            }
            ids.push(MitigationId::Keepalive);
        }
        Some(Reason::Evicted) => ids.push(MitigationId::RaiseTableSize),
        _ => {}
    }
    ids
}

impl Known<'_> {
    fn sysctl(&self, name: &str) -> Option<i64> {
        self.facts?.sysctl(name)
    }

    /// A tool to write NOTRACK rules with must be there. Where nothing is known of the host, nft is assumed.
    fn may_untrack(&self) -> bool {
        self.context.is_none_or(|context| context.manager.is_none() && context.firewall(true).is_some())
    }
}

/// What conntrack said of the flow's packet, unless it let that pass: there is nothing to cure of a packet that was accepted.
fn refused(flow: &Flow) -> Option<&ConntrackVerdict> {
    flow.incident.logged.as_deref().filter(|logged| logged.verdict != Verdict::Ignored)
}

/// Whether it helps that the gateway's stack does not get the packet. Where the refusal follows from data that went
/// unrecorded, whatever the sender says from now on acknowledges that data and is refused: to drop all of it leaves the
/// connection hanging.
fn drop_helps(flow: &Flow) -> bool {
    flow.reset_by() == Some(ResetBy::GatewayStack) && refused(flow).is_some() && flow.incident.follows.is_empty()
}

fn drop_is_possible(flow: &Flow, known: &Known<'_>) -> bool {
    let (Some(context), Some((interface, address))) = (known.context, target(flow)) else { return true };
    let owned = context.manager.is_some();
    let written = owned || context.firewall(address.is_ipv4()).is_some();
    written && context.dropped_by(interface.as_deref(), address).is_none()
}

/// The interface that the refused packet came in by, and the address that it was for.
pub(super) fn target(flow: &Flow) -> Option<(Option<String>, IpAddr)> {
    let event = flow.incident.trigger()?;
    let address = event.packet?.dst.ip();
    let interface = event.input.filter(|interface| !interface.name.is_empty());
    Some((interface.map(|interface| interface.name.to_string()), address))
}

/// The service of a connection that conntrack knows, refused packets of, and does not translate: it alone can do without.
pub(super) fn untranslated_service(flow: &Flow) -> Option<SocketAddr> {
    let refused = refused(flow).is_some();
    let translated = flow.key.nat().is_some() || flow.key.service().is_some();
    (flow.known && refused && !translated).then(|| flow.key.server())
}

/// The sysctl of the timeout that ran out, where it is one that a NAT must not set too short.
pub(super) fn timeout(flow: &Flow) -> Option<&'static str> {
    if flow.incident.diagnosis.reason != Some(Reason::Expired) {
        return None;
    }
    match flow.incident.destroyed()?.entry.state {
        TcpState::Established => Some(TIMEOUT_ESTABLISHED),
        TcpState::FinWait => Some("nf_conntrack_tcp_timeout_fin_wait"),
        TcpState::CloseWait => Some("nf_conntrack_tcp_timeout_close_wait"),
        TcpState::LastAck => Some("nf_conntrack_tcp_timeout_last_ack"),
        _ => None,
    }
}

/// The least that RFC 5382 asks of a timeout, in seconds.
pub(super) fn least(sysctl: &str) -> i64 {
    if sysctl == TIMEOUT_ESTABLISHED { RFC_ESTABLISHED } else { RFC_TRANSITORY }
}
