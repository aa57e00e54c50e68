//! Exempts a service from tracking: both directions, at PREROUTING and OUTPUT. Accepting rules stand in for rules that
//! match the state of a connection.

use std::net::SocketAddr;

use tracer_model::event::NfHook;
use tracer_model::host_context::NetnsPath;
use tracer_model::mitigation::Step;
use tracer_model::shell::nft_name;

use super::command::line;
use super::firewall::{self, COMMENT, Tool, presence};
use super::{Plan, Target};

/// The nftables table with the notrack rules.
const TABLE: &str = "whyrst_untrack";
/// The iptables chain with the notrack rules.
const RAW: &str = "whyrst-untrack";
/// The iptables chain with the accepting rules.
const ACCEPT: &str = "whyrst-untracked";

/// Deletes whyrst's rules from a chain: family, table and chain follow. nft deletes a rule by its handle only.
const DELETE_RULES: &str = "nft -a list chain \"$@\" | sed -n 's/.* comment \"whyrst untrack\" # handle \\([0-9]*\\)$/\\1/p' | \
                        while read -r handle; do nft delete rule \"$@\" handle \"$handle\" || exit 1; done";
/// Succeeds if one of them is in a chain.
const HAS_RULES: &str = "nft -s list chain \"$@\" | grep 'comment \"whyrst untrack\"'";

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
    for service in &target.services {
        let ipv4 = service.is_ipv4();
        let written = match firewall::tool(target, ipv4) {
            Some(Tool::Nft) => nft(target, *service, &mut plan),
            Some(Tool::Xtables(program)) => xtables(target, *service, &program, &mut plan),
            Some(Tool::Firewalld) | None => None,
        };
        if written.is_none() {
            plan.note(format!("no command can be written for {service} on {}", target.title()));
        }
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
    let of_nft = plan.steps.iter().any(|step| step.run.contains(TABLE));
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

/// Both directions of a service, as nft expressions.
fn directions(service: SocketAddr) -> [Vec<String>; 2] {
    let ip = if service.is_ipv4() { "ip" } else { "ip6" };
    let (address, port) = (service.ip().to_string(), service.port().to_string());
    [("daddr", "dport"), ("saddr", "sport")]
        .map(|(which, end)| [ip, which, &address, "tcp", end, &port].map(str::to_owned).to_vec())
}

fn nft(target: &Target<'_>, service: SocketAddr, plan: &mut Plan) -> Option<()> {
    let way = &target.way;
    let once = |run: String| Step { run, undo: Vec::new(), probe: None };
    // Accept first, then notrack. The undo commands run in reverse order, so that no untracked packet is dropped.
    let chains = target.context.map(|context| context.chains.as_slice()).unwrap_or_default();
    let filtering = chains.iter().filter(|chain| {
        chain.family.sees(service.is_ipv4())
            && [NfHook::LocalIn, NfHook::Forward, NfHook::LocalOut].into_iter().any(|hook| chain.hooks.has(hook))
    });
    for chain in filtering {
        if !nft_name(&chain.table) || !nft_name(&chain.name) {
            plan.note(
                "a filter chain has a name that cannot be written in a command: accept untracked packets there by hand",
            );
            continue;
        }
        let at = [chain.family.name(), &chain.table, &chain.name];
        let script = |text: &str| line(way, &[&["sh", "-c", text, "sh"], at.as_slice()].concat());
        let (delete_rules, has_rules) = (script(DELETE_RULES)?, script(HAS_RULES)?);
        for direction in directions(service) {
            let mut words: Vec<String> = ["nft", "insert", "rule"].into_iter().chain(at).map(str::to_owned).collect();
            words.extend(["ct", "state", "untracked"].map(str::to_owned));
            words.extend(direction);
            words.extend(["accept", "comment", "\"whyrst untrack\""].map(str::to_owned));
            let first = !plan.steps.iter().any(|step| step.undo.contains(&delete_rules));
            plan.steps.push(Step {
                run: line(way, &words)?,
                undo: first.then(|| delete_rules.clone()).into_iter().collect(),
                probe: first.then(|| presence(has_rules.clone())),
            });
        }
    }
    let add = line(way, &["nft", "add", "table", "inet", TABLE])?;
    if !plan.steps.iter().any(|step| step.run == add) {
        let undo = vec![line(way, &["nft", "delete", "table", "inet", TABLE])?];
        let listed = line(way, &["nft", "-s", "list", "table", "inet", TABLE])?;
        plan.steps.push(Step { run: add, undo, probe: Some(presence(listed)) });
        for hook in ["prerouting", "output"] {
            let base = format!("{{ type filter hook {hook} priority raw; policy accept; }}");
            plan.steps.push(once(line(way, &["nft", "add", "chain", "inet", TABLE, hook, &base])?));
        }
    }
    for hook in ["prerouting", "output"] {
        for direction in directions(service) {
            let mut words = ["nft", "add", "rule", "inet", TABLE, hook].map(str::to_owned).to_vec();
            words.extend(direction);
            words.push("notrack".to_owned());
            plan.steps.push(once(line(way, &words)?));
        }
    }
    Some(())
}

fn xtables(target: &Target<'_>, service: SocketAddr, program: &str, plan: &mut Plan) -> Option<()> {
    let command = |table: &str, rest: &[&str]| line(&target.way, &[&[program, "-w", "5", "-t", table], rest].concat());
    let (address, port) = (service.ip().to_string(), service.port().to_string());
    let both = [["-d", &address, "-p", "tcp", "--dport", &port], ["-s", &address, "-p", "tcp", "--sport", &port]];
    let untracked = ["-p", "tcp", "-m", "conntrack", "--ctstate", "UNTRACKED", "-m", "comment", "--comment", COMMENT];
    let tcp = ["-p", "tcp", "-m", "comment", "--comment", COMMENT];
    for (table, chain, verdict, entries, asks) in [
        (
            "filter",
            ACCEPT,
            ["-j", "ACCEPT"].as_slice(),
            ["INPUT", "FORWARD", "OUTPUT"].as_slice(),
            untracked.as_slice(),
        ),
        ("raw", RAW, ["-j", "CT", "--notrack"].as_slice(), ["PREROUTING", "OUTPUT"].as_slice(), tcp.as_slice()),
    ] {
        let new = command(table, &["-N", chain])?;
        let known = plan.steps.iter().any(|step| step.run == new);
        if !known {
            let tool = Tool::Xtables(program.to_owned());
            firewall::note_leftovers(target, &tool, (table, entries), service.is_ipv4(), plan);
            plan.steps.push(Step {
                run: new,
                undo: vec![command(table, &["-X", chain])?],
                probe: Some(presence(command(table, &["-S", chain])?)),
            });
        }
        for rule in &both {
            let all =
                |verb: &'static str| command(table, &[[verb, chain].as_slice(), rule.as_slice(), verdict].concat());
            plan.steps.push(Step { run: all("-A")?, undo: vec![all("-D")?], probe: None });
        }
        for entry in entries.iter().filter(|_| !known) {
            let jump = |verb: &'static str| command(table, &[&[verb, entry], asks, &["-j", chain]].concat());
            plan.steps.push(Step { run: jump("-I")?, undo: vec![jump("-D")?], probe: Some(presence(jump("-C")?)) });
        }
    }
    Some(())
}
