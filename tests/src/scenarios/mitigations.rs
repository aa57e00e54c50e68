//! Runs the commands of mitigations as a report prints them: the same incident then does no harm, and the undo restores every
//! rule and sysctl.

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde_json::Value;

use super::Context;
use super::connection::Connection;
use super::mitigations_applied::{SYSTEM, mitigate};
use super::no_entry::wait_without_entries;
use super::reject_rule;
use super::state::old_reset;
use super::table::{Crowd, ROOM, SYNS};
use crate::command;
use crate::expect::Expect;
use crate::netns::Namespace;
use crate::topology::{Lab, Nat, Wiring, server};
use crate::whyrst::{Capture, Captured};
use crate::wire::{PATIENCE, Segment, flag};

/// A mitigation of a report.
pub(super) struct Mitigation {
    id: String,
    commands: Vec<String>,
    undo: Vec<String>,
}

impl Mitigation {
    /// The mitigation with this ID; the first flow must name it too.
    pub(super) fn of(report: &Value, id: &str) -> Result<Self> {
        let named = report["flows"][0]["mitigations"].as_array().is_some_and(|ids| ids.iter().any(|known| known == id));
        ensure!(named, "the flow's mitigations are {}, without {id}", report["flows"][0]["mitigations"]);
        let all = report["mitigations"].as_array().into_iter().flatten();
        let found = all.clone().find(|mitigation| mitigation["id"] == id).with_context(|| format!("no {id}"))?;
        let lines = |field: &str| -> Vec<String> {
            found[field].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let mitigation = Self { id: id.to_owned(), commands: lines("commands"), undo: lines("undo") };
        ensure!(!mitigation.commands.is_empty() && !mitigation.undo.is_empty(), "{id} has no commands: {found:#}");
        Ok(mitigation)
    }

    pub(super) fn apply(&self, context: &Context<'_>) -> Result<()> {
        context.step(format!("{}: {}", self.id, self.commands.join("\n")));
        self.commands.iter().try_for_each(|line| sh(line))
    }

    pub(super) fn undo(&self, context: &Context<'_>) -> Result<()> {
        context.step(format!("undo: {}", self.undo.join("\n")));
        self.undo.iter().try_for_each(|line| sh(line))
    }
}

/// Runs a line in a shell.
fn sh(line: &str) -> Result<()> {
    command::run("/bin/sh", &["-c", line]).map(drop)
}

/// Everything that a mitigation may change in a namespace: rules without their counters, and conntrack's sysctls.
pub(super) fn state(gateway: &Namespace) -> Result<String> {
    let mut text = gateway.run(&["nft", "-s", "list", "ruleset"])?;
    for program in ["iptables-save", "ip6tables-save", "iptables-legacy-save", "ip6tables-legacy-save"] {
        let saved = gateway.run(&[program])?;
        for line in saved.lines().filter(|line| !line.starts_with('#')) {
            let line = line.split(" [").next().unwrap_or(line);
            writeln!(text, "{program}: {line}")?;
        }
    }
    let sysctls = gateway.enter(|| -> std::io::Result<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc/sys/net/netfilter")? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("nf_conntrack_") && name != "nf_conntrack_count" {
                found.push(format!("{name} = {}", fs::read_to_string(entry.path())?.trim()));
            }
        }
        found.sort_unstable();
        Ok(found.join("\n"))
    })?;
    text.push_str(&sysctls.context("reading sysctls")?);
    Ok(text)
}

/// Both are the same.
pub(super) fn unchanged(expect: &mut Expect, before: &str, after: &str) {
    let missing: Vec<&str> = before.lines().filter(|line| !after.lines().any(|other| other == *line)).collect();
    let added: Vec<&str> = after.lines().filter(|line| !before.lines().any(|other| other == *line)).collect();
    expect.that(before == after, || format!("the undo left a difference: missing {missing:#?}, added {added:#?}"));
}

/// The incident, and its report.
pub(super) fn incident(context: &Context<'_>, lab: &Lab) -> Result<Captured> {
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let errors = Connection::open(lab, server(443))?.is_reset()?;
    context.step(format!("a segment far ahead: both ends see {errors:?}"));
    capture.stop()
}

/// The same on a fresh connection, which survives it.
pub(super) fn survives(lab: &Lab, port: u16) -> Result<()> {
    let mut connection = Connection::open(lab, server(port))?;
    let far = connection.far_ahead()?;
    connection.tap.send(&far)?;
    connection.is_alive()?;
    let reset =
        |segments: &[Segment]| segments.iter().any(|seen| seen.dst == connection.server_address && seen.has(flag::RST));
    ensure!(!reset(&connection.tap.segments()), "the gateway has answered");
    Ok(())
}

/// The program that is to be missing.
const NFT: &str = "/usr/sbin/nft";

/// The same on a host without nft, as far as whyrst sees.
fn incident_without_nft(context: &Context<'_>, lab: &Lab) -> Result<Captured> {
    mount_bind("/dev/null", NFT).context("hiding nft")?;
    let captured = incident(context, lab);
    unmount(NFT, UnmountFlags::DETACH).context("showing nft")?;
    captured
}

fn both(context: &Context<'_>, lab: &Lab, drop_by: &str) -> Result<()> {
    let captured = if drop_by == "nft" { incident(context, lab)? } else { incident_without_nft(context, lab)? };
    let before = state(&lab.gateway)?;
    apply_both(context, lab, &captured, &before, drop_by)
}

fn apply_both(context: &Context<'_>, lab: &Lab, captured: &Captured, before: &str, drop_by: &str) -> Result<()> {
    let mut expect = Expect::new();
    for (id, port) in [("drop-invalid-input", 8444), ("be-liberal", 9443)] {
        let mitigation = Mitigation::of(&captured.report, id)?;
        let by = if id == "be-liberal" { "sysctl" } else { drop_by };
        let prefix = format!("ip netns exec gateway {by} ");
        expect.that(mitigation.commands[0].starts_with(&prefix), || {
            format!("{id} is not by {by}: {}", mitigation.commands[0])
        });
        mitigation.apply(context)?;
        survives(lab, port).with_context(|| format!("with {id}"))?;
        mitigation.undo(context)?;
        unchanged(&mut expect, before, &state(&lab.gateway)?);
    }
    captured.replay()?;
    expect.verdict()
}

pub(super) fn by_nft(context: &Context<'_>) -> Result<()> {
    both(context, &Lab::build(Nat::NftMasquerade)?, "nft")
}

/// There is no nft, and iptables has no filter table yet. The mitigation creates one, and somebody adds an nft rule to it: the undo leaves that rule.
pub(super) fn by_iptables(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::IptablesSnat)?;
    let captured = incident_without_nft(context, &lab)?;
    let before = state(&lab.gateway)?;
    let mitigation = Mitigation::of(&captured.report, "drop-invalid-input")?;
    mitigation.apply(context)?;
    survives(&lab, 8443)?;
    lab.gateway.run(&["nft", "add rule ip filter INPUT ct state invalid counter comment \"of-somebody-else\""])?;
    mitigation.undo(context)?;
    let left = lab.gateway.run(&["nft", "list table ip filter"])?;
    let mut expect = Expect::new();
    expect.that(left.contains("of-somebody-else") && !left.contains("whyrst"), || format!("after the undo: {left}"));
    lab.gateway.run(&["nft", "delete table ip filter"])?;
    unchanged(&mut expect, &before, &state(&lab.gateway)?);
    expect.verdict()?;
    // Now the table exists before, and the undo restores all of it.
    lab.gateway.run(&["iptables", "-A", "INPUT", "-i", "lo", "-j", "ACCEPT"])?;
    let before = state(&lab.gateway)?;
    apply_both(context, &lab, &captured, &before, "iptables")
}

/// A legacy table stays once it is there.
pub(super) fn by_legacy(context: &Context<'_>) -> Result<()> {
    let lab = Lab::wire(Wiring::default())?;
    for rule in ["-t nat -A POSTROUTING -o wan0 -j MASQUERADE", "-A INPUT -i lo -j ACCEPT"] {
        let words: Vec<&str> = ["iptables-legacy"].into_iter().chain(rule.split(' ')).collect();
        lab.gateway.run(&words)?;
    }
    both(context, &lab, "iptables-legacy")
}

pub(super) fn ignore_invalid_rst(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let (mut expect, captured) = old_reset(context, &lab, capture, false)?;
    captured.replay()?;
    let offered = captured.report["flows"][0]["mitigations"].to_string().contains("ignore-invalid-rst");
    if context.refuses_everything() {
        expect.that(!offered, || "ignore-invalid-rst is offered where there is no such sysctl".to_owned());
        return expect.verdict();
    }
    let before = state(&lab.gateway)?;
    let mitigation = Mitigation::of(&captured.report, "ignore-invalid-rst")?;
    mitigation.apply(context)?;
    let after = context.artifacts.join("after");
    fs::create_dir_all(&after)?;
    let capture = Capture::start(Some(&lab.gateway), &after, &[])?;
    let (passes, _) = old_reset(context, &lab, capture, true)?;
    passes.verdict()?;
    mitigation.undo(context)?;
    unchanged(&mut expect, &before, &state(&lab.gateway)?);
    expect.verdict()
}

pub(super) fn raise_timeout(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    lab.gateway.sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", "1")?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let mut connection = Connection::open(&lab, server(443))?;
    wait_without_entries(&lab)?;
    std::io::Write::write_all(&mut connection.server, b"are you still there?")?;
    connection.reset_to_server()?;
    let captured = capture.stop()?;
    let before = state(&lab.gateway)?;
    let mitigation = Mitigation::of(&captured.report, "raise-timeout")?;
    mitigation.apply(context)?;
    let mut patient = Connection::open(&lab, server(8443))?;
    // As the entry's own clock has it.
    idle(&lab, 7_440 - 3)?;
    patient.is_alive()?;
    context.step("a connection is idle for three seconds and goes on");
    mitigation.undo(context)?;
    let mut expect = Expect::new();
    unchanged(&mut expect, &before, &state(&lab.gateway)?);
    captured.replay()?;
    expect.verdict()
}

/// Waits until the entry of port 8443 has no more than so many seconds left.
fn idle(lab: &Lab, seconds: u32) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let entries = lab.gateway.run(&["conntrack", "-L", "-p", "tcp", "--dport", "8443"])?;
        let left =
            entries.split_whitespace().nth(2).and_then(|word| word.parse::<u32>().ok()).context("no such entry")?;
        if left <= seconds {
            return Ok(());
        }
    }
    bail!("the entry has not aged")
}

pub(super) fn raise_table_size(context: &Context<'_>) -> Result<()> {
    let lab = Lab::build(Nat::NftMasquerade)?;
    let capture = Capture::start(Some(&lab.gateway), &context.artifacts, &[])?;
    let crowd = Crowd::gather(&lab)?;
    crowd.half_open(20_000)?;
    crowd.wait_for_resets()?;
    let captured = capture.stop()?;
    let (before, evicted) = (state(&lab.gateway)?, early_drops(&lab)?);
    context.step(format!("{SYNS} half-open connections, room for {ROOM}: {evicted} were evicted"));
    let mitigation = Mitigation::of(&captured.report, "raise-table-size")?;
    mitigation.apply(context)?;
    crowd.half_open(30_000)?;
    // They have passed the gateway when one of the last has. A tap on a busy machine may miss a few.
    let last = 30_000 + SYNS - 20..30_000 + SYNS;
    crowd.connection.tap.wait("the last SYNs", |segments| {
        let seen =
            |seen: &&Segment| seen.dst == crowd.target && seen.flags == flag::SYN && last.contains(&seen.src.port());
        segments.iter().find(seen).map(drop)
    })?;
    let more = early_drops(&lab)? - evicted;
    context.step(format!("as many again: {more} were evicted"));
    mitigation.undo(context)?;
    let mut expect = Expect::new();
    expect.that(evicted >= 50, || format!("only {evicted} were evicted before"));
    expect.that(more == 0, || format!("{more} were evicted in spite of the mitigation"));
    unchanged(&mut expect, &before, &state(&lab.gateway)?);
    drop(crowd);
    captured.replay()?;
    expect.verdict()
}

/// Entries that were evicted from a full table, by the kernel's own count.
fn early_drops(lab: &Lab) -> Result<u64> {
    let counters = lab.gateway.run(&["conntrack", "-S"])?;
    let values = counters.split_whitespace().filter_map(|word| word.strip_prefix("early_drop="));
    Ok(values.map(str::parse::<u64>).sum::<Result<u64, _>>()?)
}

/// A gateway that only filters: it lets through what belongs to a connection, and rejects what conntrack refuses.
fn untrack(context: &Context<'_>, rules: &[&[&str]], by: &str) -> Result<()> {
    let lab = Lab::wire(Wiring::default())?;
    lab.server.ip("route add 10.0.0.0/24 via 192.0.2.1")?;
    reject_rule::load()?;
    for rule in rules {
        lab.gateway.run(rule)?;
    }
    let captured = if by == "nft" { incident(context, &lab)? } else { incident_without_nft(context, &lab)? };
    let before = state(&lab.gateway)?;
    let mut expect = Expect::new();
    expect.is(&captured.report, "/flows/0/nat", Value::Null);
    let mitigation = Mitigation::of(&captured.report, "untrack-service")?;
    expect.that(mitigation.commands[0].starts_with(&format!("ip netns exec gateway {by} ")), || {
        mitigation.commands[0].clone()
    });
    // A line that deletes a rule in a chain of the host needs its handle, which whyrst finds.
    let recording = captured.recording.display().to_string();
    let journal = context.artifacts.join("journal").display().to_string();
    let by_whyrst = |arguments: &[&str]| {
        let common = ["untrack-service", "--state-dir", &journal, "--yes"];
        let (status, text, said) = mitigate(SYSTEM, &[common.as_slice(), arguments].concat())?;
        ensure!(status == Some(0), "{arguments:?}: status {status:?}, {text}{said}");
        Ok(())
    };
    if by == "nft" {
        by_whyrst(&["--from", &recording, "--apply", "--watch", "0"])?;
    } else {
        mitigation.apply(context)?;
    }
    survives(&lab, 443)?;
    let entries = lab.gateway.run(&["conntrack", "-L", "-p", "tcp", "--state", "ESTABLISHED"])?;
    expect.that(!entries.contains("dport=443"), || format!("the service is tracked: {entries}"));
    if by == "nft" {
        by_whyrst(&["--undo"])?;
    } else {
        mitigation.undo(context)?;
    }
    unchanged(&mut expect, &before, &state(&lab.gateway)?);
    captured.replay()?;
    expect.verdict()
}

pub(super) fn untrack_by_nft(context: &Context<'_>) -> Result<()> {
    let rules: [&[&str]; 4] = [
        &["nft", "add table inet filter"],
        &["nft", "add chain inet filter forward { type filter hook forward priority 0; policy drop; }"],
        &["nft", "add rule inet filter forward ct state { established, related, new } accept"],
        &["nft", "add rule inet filter forward meta l4proto tcp ct state invalid reject with tcp reset"],
    ];
    untrack(context, &rules, "nft")
}

pub(super) fn untrack_by_iptables(context: &Context<'_>) -> Result<()> {
    untrack_by(context, "iptables")
}

pub(super) fn untrack_by_legacy(context: &Context<'_>) -> Result<()> {
    untrack_by(context, "iptables-legacy")
}

fn untrack_by(context: &Context<'_>, program: &str) -> Result<()> {
    let accept = ["-A", "FORWARD", "-m", "conntrack", "--ctstate", "NEW,ESTABLISHED", "-j", "ACCEPT"];
    let reject = ["-A", "FORWARD", "-p", "tcp", "-m", "conntrack", "--ctstate", "INVALID", "-j", "REJECT"];
    let accept = [&[program], accept.as_slice()].concat();
    let reject = [&[program], reject.as_slice(), &["--reject-with", "tcp-reset"]].concat();
    // iptables does not delete tables and chains that it created for the mitigation. Create them before.
    let base = [("filter", "INPUT"), ("filter", "OUTPUT"), ("raw", "PREROUTING"), ("raw", "OUTPUT")];
    let base = base.map(|(table, chain)| [program, "-t", table, "-P", chain, "ACCEPT"]);
    let policy = [program, "-P", "FORWARD", "DROP"];
    let rules = [accept.as_slice(), &reject, &policy].into_iter().chain(base.iter().map(<[&str; 6]>::as_slice));
    untrack(context, &rules.collect::<Vec<_>>(), program)
}
