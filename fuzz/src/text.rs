//! Text of the kernel and of its tools.

use tracer_host::iptables::text::ruleset;
use tracer_host::symbols::Symbols;
use tracer_model::health::counters;
use tracer_model::ruleset::Family;

/// Text of the kernel and of its tools; the first byte says whose.
pub(crate) fn text(data: &[u8]) {
    let Some((what, data)) = data.split_first() else { return };
    let text = || String::from_utf8_lossy(data);
    match what % 4 {
        0 => {
            if let Ok(symbols) = Symbols::read(data, &["nf_conntrack_in", "nf_ct_delete"]) {
                let _end = symbols.get("nf_ct_delete").and_then(|symbol| symbols.end(symbol.address));
            }
        }
        1 => saved(&text(), Family::Ip),
        2 => saved(&text(), Family::Ip6),
        _ => {
            let read = counters::from_proc(&text());
            let _total = counters::total(&read, counters::Counter::Invalid);
        }
    }
}

/// Text of iptables-save.
fn saved(text: &str, family: Family) {
    drop(ruleset(text, family));
    drop(ruleset(text, family));
}
