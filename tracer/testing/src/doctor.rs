//! A gateway that has nothing the matter, as the doctor reads one.

use std::collections::BTreeMap;

use ipnet::IpNet;
use tracer_common::Hook;
use tracer_model::capture::HookState;
use tracer_model::conntrack::Status;
use tracer_model::conntrack::log_format::LogFormat;
use tracer_model::health::counters::{Counter, PerCpu};
use tracer_model::health::ports::Ranges;
use tracer_model::health::sysctls::{ALL, Kind};
use tracer_model::health::table::{Entry, Tally};
use tracer_model::health::{Facts, Link, Machine, MapMemory, Namespace, NetnsRef, Sample, Tracing};
use tracer_model::ruleset::audit::Translation;
use tracer_model::ruleset::tables::{Action, Base, Chain, ChainKind, ChainRule, Condition, Nat, Ruleset, Step, Table};
use tracer_model::ruleset::{Backend, Family, Test};
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

/// A rule of these steps.
pub fn rule(steps: Vec<Step>) -> ChainRule {
    ChainRule { handle: Some(7), packets: Some(3), by_iptables: false, text: "what it says".to_owned(), steps }
}

/// A rule that does something to packets that are INVALID.
pub fn on_invalid(action: Action) -> ChainRule {
    rule(vec![Step::If(Condition::Is(Test::state(1, false))), Step::Do(action)])
}

/// A ruleset that masquerades, with chains of these rules at netfilter hooks, and of this policy: drop or not.
pub fn ruleset(chains: Vec<(u8, Vec<ChainRule>, bool)>) -> Ruleset {
    let base = |hook, kind, drops| Some(Base { hook, priority: 0, kind, drops });
    let masquerades = rule(vec![Step::Do(Action::Nat(Nat::Masquerade(Translation::default())))]);
    let mut all = vec![Chain { name: "c".to_owned(), base: base(4, ChainKind::Nat, false), rules: vec![masquerades] }];
    for (hook, rules, drops) in chains {
        all.push(Chain { name: format!("at{hook}"), base: base(hook, ChainKind::Filter, drops), rules });
    }
    let (name, sets) = ("t".to_owned(), Vec::new());
    Ruleset {
        tables: vec![Table { backend: Backend::Nftables, family: Family::Inet, name, chains: all, sets }],
        problems: Vec::new(),
    }
}

/// Gives a namespace this ruleset.
pub fn load(namespace: &mut Namespace, ruleset: Ruleset) {
    namespace.audit = Some(ruleset.audit(1, Instant(0)));
    namespace.ruleset = Some(ruleset);
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
    let link = |name: &str, index, address: [u8; 4], default_route| Link {
        name: name.to_owned(),
        index,
        addresses: IpNet::new(address.into(), 24).into_iter().collect(),
        default_route,
    };
    let mut namespace = Namespace {
        inode: 1,
        place: NetnsRef { name: Some("gw".to_owned()), ..NetnsRef::default() },
        before: sample(0, 1, 1),
        after: sample(2, 1, 1),
        sysctls,
        own_limit: false,
        table: Some(tally.finish(1, Instant(0), None)),
        audit: None,
        ruleset: None,
        links: vec![link("lan0", 2, [10, 0, 0, 1], false), link("wan0", 3, [192, 0, 2, 1], true)],
        loaded: Vec::new(),
        unread: Vec::new(),
    };
    load(&mut namespace, ruleset(Vec::new()));
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
