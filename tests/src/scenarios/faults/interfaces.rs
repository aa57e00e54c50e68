//! The gateway's interfaces change while whyrst captures, with and without `--tap`.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::Result;
use rustix::net::sockopt::set_socket_linger;
use serde_json::Value;

use super::super::Context;
use super::super::connection::Connection;
use crate::expect::Expect;
use crate::topology::{Ingress, Lab, Nat, server};
use crate::whyrst::Capture;

/// An interface is renamed, and then taken out and replaced by another one of the same name. What comes by it is seen once,
/// under the name that it has then: refusals, and with `--tap` RSTs of the server's.
pub(in super::super) fn changed(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let gateway = &lab.gateway;
    gateway.run(&["nft", "add rule inet nat postrouting oifname wan9 masquerade"])?;
    let mut capture = Capture::start(Some(gateway), &context.artifacts, &["--tap", "--log", "info"])?;
    let mut expect = Expect::new();
    let mut resets = vec![reset_and_abort(&lab, &mut expect, "wan0")?];

    gateway.ip("link set wan0 down")?;
    gateway.ip("link set wan0 name wan9")?;
    gateway.ip("link set wan9 up")?;
    context.step("wan0 is wan9 now");
    resets.push(reset_and_abort(&lab, &mut expect, "wan9")?);

    gateway.ip("link delete wan9")?;
    lab.connect_server(Ingress::Cable)?;
    context.step("wan9 is deleted, and there is another wan0");
    // Interfaces are followed once a second where they are tapped one by one.
    if has_tcx() {
        capture.wait_for("tapping wan0")?;
    }
    resets.push(reset_and_abort(&lab, &mut expect, "wan0")?);
    let captured = capture.stop()?;
    let report = &captured.report;
    for (refused, aborted, interface) in &resets {
        expect.that(interface_of(report, refused, "conntrack-invalid") == *interface, || {
            format!("{refused} was refused on {}", interface_of(report, refused, "conntrack-invalid"))
        });
        expect.that(interface_of(report, aborted, "peer-reset-received") == *interface, || {
            format!("the RST to {aborted} came by {}", interface_of(report, aborted, "peer-reset-received"))
        });
    }
    expect.is(report, "/summary/flows_reset", 3);
    expect.is(report, "/summary/by_cause/peer-reset", 3);
    expect.that(!captured.said.contains("--tap:"), || captured.said.clone());
    captured.replay()?;
    expect.verdict()
}

/// Whether interfaces take links at their ingress (Linux 6.6).
fn has_tcx() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    !["5.", "6.1."].iter().any(|old| release.starts_with(old))
}

/// One connection is reset by the gateway, one by the server; gives both clients.
fn reset_and_abort(lab: &Lab, expect: &mut Expect, interface: &'static str) -> Result<(String, String, &'static str)> {
    let mut refused = Connection::open(lab, server(443))?;
    refused.is_reset()?;
    let Connection { mut client, server, client_address, .. } = Connection::open(lab, server(444))?;
    set_socket_linger(&server, Some(Duration::ZERO))?;
    drop(server);
    let error = Connection::error_of(&mut client)?;
    expect.that(error == ErrorKind::ConnectionReset, || format!("the client saw {error}"));
    Ok((refused.client_address.to_string(), client_address.to_string(), interface))
}

/// The interface of a flow's first step of a kind.
fn interface_of(report: &Value, client: &str, step: &str) -> String {
    let flows = report["flows"].as_array().into_iter().flatten();
    let mut steps = flows.filter(|flow| flow["client"] == client).filter_map(|flow| flow["chain"].as_array()).flatten();
    let found = steps.find(|found| found["step"] == step);
    found.and_then(|found| found["in"].as_str()).unwrap_or("nothing").to_owned()
}
