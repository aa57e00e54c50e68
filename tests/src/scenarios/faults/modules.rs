//! Modules that are taken out and loaded again under whyrst: kprobes die with them, and have to be set anew.

use std::io::Write as _;

use anyhow::Result;

use super::super::Context;
use super::super::connection::Connection;
use super::super::no_entry::wait_without_entries;
use super::super::reject_rule;
use super::super::reported::{SEQ_OVER, What, Who};
use super::super::topologies::{unload, unload_conntrack};
use crate::expect::Expect;
use crate::topology::{Lab, Nat, Wiring, server};
use crate::whyrst::Capture;

/// An entry that ran into its timeout; the gateway's stack answered the next segment.
const EXPIRED: What =
    What { cause: "no-entry", reason: Some("expired"), by: "gateway-stack", invalid: 0, effect: "kills" };

/// nf_conntrack is unloaded and loaded again. The report has the resets before and after, and why an entry was destroyed.
pub(in super::super) fn conntrack(context: &Context<'_>) -> Result<()> {
    let lab = Lab::wire(Wiring::default())?;
    lab.translate(Nat::NftMasquerade)?;
    let mut capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut before = Connection::open(&lab, server(443))?;
    before.is_reset()?;
    lab.gateway.run(&["nft", "flush", "ruleset"])?;
    unload_conntrack()?;
    capture.wait_for(": module nf_conntrack was removed")?;
    context.step("nf_conntrack is unloaded");
    lab.translate(Nat::NftMasquerade)?;
    // The last of its hooks.
    capture.wait_for("early_drop is attached")?;
    context.step("nf_conntrack is loaded again");
    lab.gateway.sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "1")?;
    let mut after = Connection::open(&lab, server(443))?;
    after.is_reset()?;
    lab.gateway.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", "1")?;
    let mut idle = Connection::open(&lab, server(444))?;
    wait_without_entries(&lab)?;
    idle.server.write_all(b"are you still there?")?;
    idle.reset_to_server()?;
    Connection::error_of(&mut idle.server)?;
    idle.client_learns()?;
    let captured = capture.stop()?;
    let mut expect = Expect::new();
    for (connection, what) in [(&before, &SEQ_OVER), (&after, &SEQ_OVER), (&idle, &EXPIRED)] {
        Who::of(connection, &lab.gateway)?.is_reported(&mut expect, &captured.report, what);
    }
    expect.is(&captured.report, "/summary/flows_reset", 3);
    expect.is(&captured.report, "/capture/events_lost", 0);
    captured.replay()?;
    expect.verdict()
}

/// The module of REJECT goes with the only rule that needs it, and comes back with another one.
pub(in super::super) fn reject(context: &Context<'_>) -> Result<()> {
    const RULE: &str = "iifname lan0 tcp dport 443 reject with tcp reset";
    let lab = Lab::build(Nat::NftMasquerade)?;
    reject_rule::load()?;
    let mut capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connections = [Connection::open(&lab, server(443))?, Connection::open(&lab, server(443))?];
    let mut expect = Expect::new();
    for (round, connection) in connections.iter_mut().enumerate() {
        reject_rule::chain(&lab.gateway, "forward")?;
        reject_rule::rule(&lab.gateway, "forward", RULE)?;
        if round == 1 {
            capture.wait_for("nf_send_reset is attached")?;
        }
        let error = connection.client_learns()?;
        context.step(format!("a rule rejects: {error}"));
        lab.gateway.run(&["nft", "delete", "table", "inet", "filter"])?;
        if round == 0 {
            unload("nf_reject_ipv4")?;
            capture.wait_for("detached nf_send_reset:")?;
        }
    }
    let captured = capture.stop()?;
    let report = &captured.report;
    expect.is(report, "/summary/by_cause/reject-rule", 2);
    expect.is(report, "/summary/resets_sent", 2);
    for flow in report["flows"].as_array().into_iter().flatten() {
        expect.that(flow["reset_by"] == "gateway-reject-rule", || format!("reset by {}", flow["reset_by"]));
        expect.that(flow["confidence"] == "proven", || format!("it is {}", flow["confidence"]));
    }
    captured.replay()?;
    expect.verdict()
}
