//! Exempts a service from tracking: both directions, at PREROUTING and OUTPUT. Accepting rules stand in for rules that
//! match the state of a connection.

use std::net::SocketAddr;

use tracer_model::event::NfHook;
use tracer_model::host_context::{HostContext, NetnsPath};
use tracer_model::mitigation::{Change, IptablesRule, MitigationId, NftBatch, NftChain, NftInsert, NftRule};
use tracer_model::ruleset::{Backend, Family};
use tracer_model::shell::nft_name;

use super::firewall::{self, Tool};
use super::{Plan, Target, comment};

/// The nftables table with the notrack rules.
const TABLE: &str = "whyrst_untrack";
/// The hooks where a packet is exempted before conntrack sees it.
const EARLY: [&str; 2] = ["prerouting", "output"];
/// The chains of iptables that filter.
const FILTERING: [&str; 3] = ["INPUT", "FORWARD", "OUTPUT"];

/// Exempts the services of a target from tracking.
pub(super) fn service(target: &Target<'_>) -> Plan {
    let mut plan = Plan::default();
    if let Some(manager) = firewall::manager(target.context) {
        plan.note(format!(
            "{} manages the rules of this host and would remove these: there is no command",
            manager.name()
        ));
        return plan;
    }
    let translates = target.context.is_some_and(|context| !context.translations.is_empty());
    if translates {
        plan.note("this host translates other connections: make sure that none of its rules translates this service");
    }
    if target.services.is_empty() {
        plan.note("no service was named: use --service ADDRESS:PORT");
    }
    let mut of_nft = Vec::new();
    for service in &target.services {
        let written = match firewall::tool(target, service.is_ipv4()) {
            Some(Tool::Nft) => {
                of_nft.push(*service);
                true
            }
            Some(Tool::Xtables(program)) => {
                accept_by_iptables(target, *service, &program, &FILTERING, &mut plan)
                    && notrack_by_iptables(target, *service, &program, &mut plan)
            }
            Some(Tool::Firewalld) | None => false,
        };
        if !written {
            plan.note(format!("no command can be written for {service} on {}", target.title()));
        }
    }
    if !of_nft.is_empty() && !nft(target, &of_nft, &mut plan) {
        plan.note(format!("no command can be written for {}", target.title()));
    }
    keep(target, &mut plan);
    plan
}

fn keep(target: &Target<'_>, plan: &mut Plan) {
    if plan.steps.is_empty() {
        return;
    }
    plan.note("open connections keep their entries until these expire; their packets are no longer tracked");
    let persistence = target.context.map(|context| context.persistence.as_slice()).unwrap_or_default();
    let of_nft = plan.steps.iter().any(|step| matches!(step.change, Change::NftBatch(_)));
    if target.way != NetnsPath::Here {
        plan.note("no service loads rules into this namespace at boot: add the commands to what creates it");
    } else if of_nft && firewall::keep_table(TABLE, persistence, plan) {
        plan.note(
            "the accepting rules are in the host's own chains: add them by hand to the file that is loaded at boot",
        );
    } else if of_nft || !firewall::keep_saved(persistence, plan) {
        plan.note("nothing loads these rules at boot: a reboot removes them");
    }
}

/// Both directions of a service, as matches of nft.
fn directions(service: SocketAddr) -> [String; 2] {
    let ip = if service.is_ipv4() { "ip" } else { "ip6" };
    let (address, port) = (service.ip(), service.port());
    [("daddr", "dport"), ("saddr", "sport")].map(|(which, end)| format!("{ip} {which} {address} tcp {end} {port}"))
}

/// Both directions of a service, as matches of iptables.
fn both(service: SocketAddr) -> [Vec<String>; 2] {
    let (address, port) = (service.ip().to_string(), service.port().to_string());
    [("-d", "--dport"), ("-s", "--sport")]
        .map(|(which, end)| [which, &address, "-p", "tcp", end, &port].map(str::to_owned).to_vec())
}

/// A table of its own with the notrack rules, and accepting rules in the host's chains. iptables does not list a chain of its
/// own that has rules of nft, so that it writes the accepting rules there.
fn nft(target: &Target<'_>, services: &[SocketAddr], plan: &mut Plan) -> bool {
    let mut written = true;
    let mut batch =
        NftBatch { table: TABLE.to_owned(), comment: comment(MitigationId::UntrackService), ..NftBatch::default() };
    for hook in EARLY {
        let (name, hook, priority) = (hook.to_owned(), hook.to_owned(), "raw".to_owned());
        batch.chains.push(NftChain { name, hook, priority });
    }
    for service in services {
        for chain in EARLY {
            let rules = directions(*service).map(|matches| format!("{matches} counter notrack"));
            batch.rules.extend(rules.map(|rule| NftRule { chain: chain.to_owned(), rule }));
        }
        let Some(context) = target.context else { continue };
        accept_by_nft(context, *service, &mut batch, plan);
        for (backend, chains) in iptables_chains(context, service.is_ipv4()) {
            let Some(program) = context.tool(backend, service.is_ipv4()) else {
                plan.note(format!(
                    "{} has chains that filter, and no tool is there for it: accept untracked packets there by hand",
                    backend.name()
                ));
                continue;
            };
            written &= accept_by_iptables(target, *service, &program, &chains, plan);
        }
    }
    for NftInsert { family, table, chain, .. } in &batch.inserts {
        let at = format!("{} {table} {chain}", family.name());
        plan.note(format!(
            "whyrst deletes its rules in {at} by their handles; to do so by hand: `nft -a list chain {at}` prints the \
             handles, and `nft delete rule {at} handle` with a handle deletes one"
        ));
    }
    written & plan.step(&target.way, Change::NftBatch(batch))
}

fn accept_by_nft(context: &HostContext, service: SocketAddr, batch: &mut NftBatch, plan: &mut Plan) {
    let filtering = context.chains.iter().filter(|chain| {
        chain.family.sees(service.is_ipv4())
            && [NfHook::LocalIn, NfHook::Forward, NfHook::LocalOut].into_iter().any(|hook| chain.hooks.has(hook))
            && ![TABLE, firewall::TABLE].contains(&chain.table.as_str())
    });
    for chain in filtering {
        if !nft_name(&chain.table) || !nft_name(&chain.name) {
            plan.note(
                "a filter chain has a name that cannot be written in a command: accept untracked packets there by hand",
            );
            continue;
        }
        let rules = directions(service).map(|matches| format!("ct state untracked {matches} accept"));
        batch.inserts.extend(rules.map(|rule| NftInsert {
            family: chain.family,
            table: chain.table.clone(),
            chain: chain.name.clone(),
            rule,
        }));
    }
}

/// The chains of iptables in table `filter`, for each of its backends.
fn iptables_chains(context: &HostContext, ipv4: bool) -> Vec<(Backend, Vec<&'static str>)> {
    let family = if ipv4 { Family::Ip } else { Family::Ip6 };
    let there = |chain: &&str| context.xchains.contains(&(family, "filter".to_owned(), (*chain).to_owned()));
    let of_nft: Vec<&str> = FILTERING.into_iter().filter(there).collect();
    // A legacy table has all its chains from the start.
    let legacy =
        context.backends.contains(&Backend::IptablesLegacy) && context.xtables.contains(&(family, "filter".to_owned()));
    let of_legacy = if legacy { FILTERING.to_vec() } else { Vec::new() };
    let both = [(Backend::IptablesNft, of_nft), (Backend::IptablesLegacy, of_legacy)];
    both.into_iter().filter(|(_, chains)| !chains.is_empty()).collect()
}

/// Accepts the untracked packets of a service at the start of these chains.
fn accept_by_iptables(
    target: &Target<'_>,
    service: SocketAddr,
    program: &str,
    chains: &[&str],
    plan: &mut Plan,
) -> bool {
    let rest = ["-m", "conntrack", "--ctstate", "UNTRACKED"].as_slice();
    by_iptables(target, service, (program, "filter", chains), (rest, &["-j", "ACCEPT"]), plan)
}

fn notrack_by_iptables(target: &Target<'_>, service: SocketAddr, program: &str, plan: &mut Plan) -> bool {
    let chains = ["PREROUTING", "OUTPUT"];
    by_iptables(target, service, (program, "raw", &chains), (&[], &["-j", "CT", "--notrack"]), plan)
}

fn by_iptables(
    target: &Target<'_>,
    service: SocketAddr,
    (program, table, chains): (&str, &str, &[&str]),
    (matches, verdict): (&[&str], &[&str]),
    plan: &mut Plan,
) -> bool {
    let comment = comment(MitigationId::UntrackService);
    let comment = ["-m", "comment", "--comment", &comment];
    firewall::note_leftovers(target, program, (table, chains), service.is_ipv4(), plan);
    let mut written = true;
    for chain in chains {
        for direction in both(service) {
            let rest = matches.iter().chain(&comment).chain(verdict).map(|word| (*word).to_owned());
            let rule = direction.into_iter().chain(rest).collect();
            let (program, table, chain) = (program.to_owned(), table.to_owned(), (*chain).to_owned());
            written &= plan.step(&target.way, Change::IptablesRule(IptablesRule { program, table, chain, rule }));
        }
    }
    written
}
