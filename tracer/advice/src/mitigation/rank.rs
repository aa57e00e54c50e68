//! The mitigations of a flow on this host, the most thorough first.

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

use super::{IGNORE_INVALID_RST, LIBERAL, TIMEOUT_ESTABLISHED};

/// With this many refused packets of one connection, conntrack probably sees one direction only.
const REPEATEDLY: u64 = 3;

/// The facts of a flow's namespace, as far as they are known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// Its facts.
    pub facts: Option<&'a Netns>,
    /// Its host context.
    pub context: Option<&'a HostContext>,
}

/// The mitigations for a flow, the most thorough first, without those that are in force or cannot work here.
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
    // If conntrack sees one direction only, it refuses all later packets. Dropping all of them does not help.
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

    /// NOTRACK rules need a tool. An unknown host is assumed to have nft.
    fn may_untrack(&self) -> bool {
        self.context.is_none_or(|context| context.manager.is_none() && context.firewall(true).is_some())
    }
}

/// The verdict on the flow's packet, unless conntrack accepted it: an accepted packet needs no mitigation.
fn refused(flow: &Flow) -> Option<&ConntrackVerdict> {
    flow.incident.logged.as_deref().filter(|logged| logged.verdict != Verdict::Ignored)
}

/// Whether it helps to drop the packet before the gateway's stack gets it. It does not if the refusal follows from data
/// that conntrack did not record: all later packets of the sender acknowledge that data and are refused, so dropping them
/// makes the connection hang.
fn drop_helps(flow: &Flow) -> bool {
    flow.reset_by() == Some(ResetBy::GatewayStack) && refused(flow).is_some() && flow.incident.follows.is_empty()
}

fn drop_is_possible(flow: &Flow, known: &Known<'_>) -> bool {
    let (Some(context), Some((interface, address))) = (known.context, destination(flow)) else { return true };
    let owned = context.manager.is_some();
    let written = owned || context.firewall(address.is_ipv4()).is_some();
    written && context.dropped_by(interface.as_deref(), address).is_none()
}

/// Ingress interface and destination address of the refused packet.
pub(super) fn destination(flow: &Flow) -> Option<(Option<String>, IpAddr)> {
    let event = flow.incident.trigger()?;
    let address = event.packet?.dst.ip();
    let interface = event.input.filter(|interface| !interface.name.is_empty());
    Some((interface.map(|interface| interface.name.to_string()), address))
}

/// The server of a tracked, untranslated connection with refused packets: only such a service can do without tracking.
pub(super) fn untranslated_service(flow: &Flow) -> Option<SocketAddr> {
    let refused = refused(flow).is_some();
    let translated = flow.key.nat().is_some() || flow.key.service().is_some();
    (flow.known && refused && !translated).then(|| flow.key.server())
}

/// The sysctl of the expired timeout, if RFC 5382 sets a minimum for it.
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

/// The minimum of RFC 5382 for a timeout, in seconds.
pub(super) fn least(sysctl: &str) -> i64 {
    if sysctl == TIMEOUT_ESTABLISHED { RFC_ESTABLISHED } else { RFC_TRANSITORY }
}
