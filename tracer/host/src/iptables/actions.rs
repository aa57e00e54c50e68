//! What the targets of xtables do. The two readers take options out of text or out of structures; what an option means is
//! decided here, once for both.

use tracer_model::ruleset::Hooks;
use tracer_model::ruleset::audit::Translation;
use tracer_model::ruleset::tables::{Action, Nat, Step};

use super::conditions;

/// One thing that is done.
fn does(action: Action) -> Vec<Step> {
    vec![Step::Do(action)]
}

/// What is not understood.
pub(super) fn not_understood(text: &str) -> Vec<Step> {
    does(Action::NotUnderstood(text.to_owned()))
}

/// `REJECT`.
pub(super) fn reject(with_reset: bool) -> Vec<Step> {
    does(if with_reset { Action::RejectWithReset } else { Action::RejectWithIcmp })
}

/// `NFQUEUE` and `QUEUE`.
pub(super) fn queue(bypass: bool) -> Vec<Step> {
    does(Action::Queue { bypass })
}

/// `MARK`: `mark = (mark & ~mask) ^ value`.
pub(super) fn mark(value: u32, mask: u32) -> Vec<Step> {
    does(Action::Mark { and: !mask, xor: value })
}

/// `CONNMARK`: one that restores changes nothing where there is no entry (`connmark_tg`).
pub(super) fn connmark(restores: bool, text: &str) -> Vec<Step> {
    if restores {
        vec![Step::If(conditions::with_entry()), Step::Do(Action::MarkUnknown)]
    } else {
        does(Action::Nothing(text.to_owned()))
    }
}

/// `SET`: an element may have a mark that the packet gets.
pub(super) fn set(maps: bool, text: &str) -> Vec<Step> {
    does(if maps { Action::MarkUnknown } else { Action::Nothing(text.to_owned()) })
}

/// `CT`.
pub(super) fn ct(untracks: bool, zone: bool, text: &str) -> Vec<Step> {
    does(match (untracks, zone) {
        (true, _) => Action::Untrack,
        (false, true) => Action::NotUnderstood(text.to_owned()),
        (false, false) => Action::Nothing(text.to_owned()),
    })
}

/// A target that translates; for NETMAP the hooks that lead to the rule decide which end it translates.
pub(super) fn translation(name: &str, to: Translation, hooks: Hooks, text: &str) -> Vec<Step> {
    const PREROUTING_OUTPUT: u8 = 1 << 0 | 1 << 3;
    const INPUT_POSTROUTING: u8 = 1 << 1 | 1 << 4;
    let nat = match (name, hooks.0) {
        ("SNAT", _) => Nat::Source(to),
        ("MASQUERADE", _) => Nat::Masquerade(to),
        ("DNAT", _) => Nat::Destination(to),
        ("REDIRECT", _) => Nat::Redirect(to),
        ("NETMAP", hooks) if hooks != 0 && hooks & !PREROUTING_OUTPUT == 0 => Nat::Destination(to),
        ("NETMAP", hooks) if hooks != 0 && hooks & !INPUT_POSTROUTING == 0 => Nat::Source(to),
        _ => return not_understood(text),
    };
    does(Action::Nat(nat))
}

/// A target of which its name says enough, whatever its options.
pub(super) fn named(name: &str, text: &str) -> Vec<Step> {
    does(match name {
        "ACCEPT" => Action::Accept,
        "DROP" => Action::Drop,
        "RETURN" => Action::Return,
        "NOTRACK" => Action::Untrack,
        "HMARK" => Action::MarkUnknown,
        "SYNPROXY" => Action::Synproxy,
        "TPROXY" => Action::Tproxy,
        // They note it, copy it, or change of it what decides nothing.
        "AUDIT" | "CHECKSUM" | "CLASSIFY" | "CONNSECMARK" | "DSCP" | "ECN" | "HL" | "IDLETIMER" | "LED" | "LOG"
        | "NFLOG" | "RATEEST" | "SECMARK" | "TCPMSS" | "TCPOPTSTRIP" | "TEE" | "TOS" | "TRACE" | "TTL" | "ULOG" => {
            Action::Nothing(text.to_owned())
        }
        // CLUSTERIP drops what another node answers, DNPT and SNPT change addresses without conntrack; others may do anything.
        _ => Action::NotUnderstood(text.to_owned()),
    })
}
