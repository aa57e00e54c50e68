//! A gateway that has nothing the matter, as the doctor reads one.

use std::collections::BTreeMap;

use tracer_common::Hook;
use tracer_model::capture::HookState;
use tracer_model::conntrack::Status;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::health::counters::{Counter, PerCpu};
use tracer_model::health::ports::Ranges;
use tracer_model::health::sysctls::{ALL, Kind};
use tracer_model::health::table::{Entry, Tally};
use tracer_model::health::{Facts, Machine, MapMemory, Namespace, NetnsRef, Sample, Tracing};
use tracer_model::ruleset::audit::{Audit, Does, Noted, Translation};
use tracer_model::ruleset::{Backend, Family, Hooks, Rule};
use tracer_model::time::Instant;

/// A look at `at` seconds: so many entries, and so many packets that found theirs.
pub fn sample(at: u64, entries: u64, counted: u32) -> Sample {
    let mut cpu = PerCpu::of(0);
    for counter in Counter::ALL {
        cpu.set(counter, 0);
    }
    cpu.set(Counter::Found, counted);
    Sample { at: Instant(at * 1_000_000_000), entries: Some(entries), counters: vec![cpu], expectations: Some(0) }
}

/// The entry of a connection of 10.0.0.`client`, translated to this port of the gateway.
pub fn entry(client: u8, nat_port: u16) -> Entry {
    Entry {
        source: Some([10, 0, 0, client].into()),
        protocol: Some(6),
        service: Some(tracer_model::table_usage::Service {
            protocol: 6,
            address: [192, 0, 2, 2].into(),
            port: Some(443),
        }),
        reply_source: Some(([192, 0, 2, 2].into(), 443)),
        reply_destination: Some(([192, 0, 2, 1].into(), nat_port)),
        status: Status(1 << 1 | 1 << 2 | 1 << 4),
        ..Entry::default()
    }
}

/// A rule that does something, at this netfilter hook.
pub fn noted(does: Does, hook: u32) -> Noted {
    let rule = Rule {
        backend: Backend::Nftables,
        family: Family::Inet,
        table: "t".to_owned(),
        chain: "c".to_owned(),
        handle: Some(7),
        number: None,
        place: 0,
        hooks: Hooks::only(hook),
        tests: Vec::new(),
        complete: true,
        packets: Some(3),
        text: "what it says".to_owned(),
    };
    Noted { does, rule }
}

/// An audit with these rules, and one that masquerades.
pub fn audit(rules: Vec<Noted>) -> Audit {
    let mut noted = rules;
    noted.push(self::noted(Does::Masquerades(Translation::default()), 4));
    Audit { netns: 1, at: Instant(0), noted, drops: Vec::new(), problems: Vec::new() }
}

/// A gateway with 8 GiB that has nothing the matter.
pub fn healthy() -> Facts {
    let mut sysctls: BTreeMap<String, i64> = ALL
        .iter()
        .map(|sysctl| {
            let value = match sysctl.kind {
                Kind::Timeout { default, .. } => default,
                Kind::Size(_) => 262_144,
                Kind::Switch { .. } => 0,
            };
            (sysctl.name.to_owned(), value)
        })
        .collect();
    for on in ["nf_conntrack_tcp_loose", "nf_conntrack_checksum"] {
        sysctls.insert(on.to_owned(), 1);
    }
    let mut tally = Tally::new(Ranges::default());
    tally.add(&entry(2, 40_000));
    let namespace = Namespace {
        inode: 1,
        place: NetnsRef { name: Some("gw".to_owned()), ..NetnsRef::default() },
        before: sample(0, 1, 1),
        after: sample(2, 1, 1),
        sysctls,
        own_limit: false,
        table: Some(tally.finish(1, Instant(0), None)),
        audit: Some(audit(Vec::new())),
        unread: Vec::new(),
    };
    let host = Machine {
        hostname: "gw-1".to_owned(),
        kernel: "6.1.0".to_owned(),
        log_format: Some(LogFormat::E4),
        memory: Some(8 << 30),
        entry_bytes: Some(256),
        programs: vec!["nft"],
        unread: Vec::new(),
    };
    let tracing = Tracing {
        obstacles: Vec::new(),
        conntrack: true,
        hooks: vec![(Hook::CtInvalid, HookState::Attached)],
        missing_fields: Vec::new(),
        memory: MapMemory::default(),
        problem: None,
    };
    Facts { host, tracing, namespaces: vec![namespace] }
}
