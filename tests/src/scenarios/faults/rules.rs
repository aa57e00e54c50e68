//! The gateway's ruleset is replaced while whyrst captures.

use anyhow::Result;
use serde_json::Value;

use super::super::Context;
use super::super::connection::Connection;
use super::super::reject_rule::{chain, handle, load, rule};
use super::super::reported::{SEQ_OVER, Who};
use crate::expect::Expect;
use crate::topology::{Lab, Nat, server};
use crate::whyrst::Capture;

/// A rule rejects; then all rules are flushed and others loaded, of which one rejects elsewhere. The report does not blame the
/// second rule for a RST of the first, and has conntrack's refusals all the same.
pub(in super::super) fn replaced(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    load()?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut first = Connection::open(&lab, server(443))?;
    let mut second = Connection::open(&lab, server(8443))?;
    let mut third = Connection::open(&lab, server(444))?;
    chain(&lab.gateway, "forward")?;
    rule(&lab.gateway, "forward", "iifname lan0 tcp dport 443 counter reject with tcp reset")?;
    let old = handle(&lab.gateway, "forward", "443")?;
    first.client_learns()?;
    context.step("the first ruleset rejects");
    // In one transaction, as `nft -f` does it: conntrack is never without a rule that needs it.
    let ruleset = [
        "flush ruleset",
        "add table inet nat",
        "add chain inet nat postrouting { type nat hook postrouting priority srcnat; }",
        "add rule inet nat postrouting oifname wan0 masquerade",
        "add table inet filter",
        "add chain inet filter forward { type filter hook forward priority 0; }",
        "add rule inet filter forward iifname wan0 counter",
        "add rule inet filter forward iifname lan0 tcp dport 8443 counter reject with tcp reset",
    ];
    lab.gateway.run(&["nft", &ruleset.join("; ")])?;
    let new = handle(&lab.gateway, "forward", "8443")?;
    second.client_learns()?;
    context.step("the second ruleset rejects");
    third.is_reset()?;
    let captured = capture.stop()?;

    let mut expect = Expect::new();
    let report = &captured.report;
    Who::of(&third, &lab.gateway)?.is_reported(&mut expect, report, &SEQ_OVER);
    // Handles begin anew with each table: the second rule may have that of the first.
    for (connection, own, text) in [(&first, old, "dport 443 "), (&second, new, "dport 8443 ")] {
        let client = connection.client_address.to_string();
        let mut flows = report["flows"].as_array().into_iter().flatten();
        let Some(flow) = flows.find(|flow| flow["client"] == client) else {
            expect.that(false, || format!("{client} is not in the report"));
            continue;
        };
        expect.that(flow["cause"] == "reject-rule", || format!("{client}: {}", flow["cause"]));
        let rule = &flow["rule"];
        context.step(format!("{client}: {rule}"));
        // Which rule it was may be open where the rules were read when they had changed already; it is never another one.
        let blamed = rule["handle"].as_u64().filter(|_| rule["text"].as_str().is_some());
        let honest = blamed.is_none() || rule["text"].as_str().is_some_and(|found| found.contains(text));
        expect.that(honest, || format!("{client}: rule {own} rejected it: {rule}"));
    }
    expect.is(report, "/summary/resets_sent", 3);
    expect.is(report, "/capture/events_lost", 0);
    let findings: Vec<&Value> = report["findings"].as_array().into_iter().flatten().collect();
    expect.that(findings.iter().all(|finding| finding["severity"] != "error"), || format!("{findings:?}"));
    captured.replay()?;
    expect.verdict()
}
