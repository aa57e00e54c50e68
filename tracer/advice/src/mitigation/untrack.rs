//! Exempts a service from tracking: both directions, where packets arrive and where this host makes them, and lets them
//! pass where rules ask for the state of a connection.

use std::net::SocketAddr;

use tracer_model::event::NfHook;
use tracer_model::host_context::NetnsPath;
use tracer_model::mitigation::Step;
use tracer_model::shell::nft_name;

use super::command::line;
use super::firewall::{self, COMMENT, Tool, presence};
use super::{Place, Plan};

/// The table of nftables that says what is not tracked.
const TABLE: &str = "whyrst_untrack";
/// The chain of iptables that says what is not tracked.
const RAW: &str = "whyrst-untrack";
/// The chain of iptables that accepts it.
const ACCEPT: &str = "whyrst-untracked";

/// Takes whyrst's rules out of a chain: family, table and chain follow. nft deletes a rule by its handle alone.
const TAKE_OUT: &str = "nft -a list chain \"$@\" | sed -n 's/.* comment \"whyrst untrack\" # handle \\([0-9]*\\)$/\\1/p' | \
                        while read -r handle; do nft delete rule \"$@\" handle \"$handle\" || exit 1; done";
/// Succeeds where one of them is in a chain.
const IS_IN: &str = "nft -s list chain \"$@\" | grep 'comment \"whyrst untrack\"'";

/// Exempts the services of a place.
pub(super) fn service(place: &Place<'_>) -> Plan {
    let mut plan = Plan::default();
    if let Some(manager) = firewall::owner(place.context) {
        plan.note(format!(
            "{} owns the rules of this host and would forget these: no command is given",
            manager.name()
        ));
        return plan;
    }
    let translates = place.context.is_some_and(|context| !context.translations.is_empty());
    if translates {
        plan.note("this host translates other connections: be sure that no rule of it translates this service's");
    }
    if place.services.is_empty() {
        plan.note("which service? Give it with --service ADDRESS:PORT");
    }
    for service in &place.services {
        let ipv4 = service.is_ipv4();
        let written = match firewall::tool(place, ipv4) {
            Some(Tool::Nft) => nft(place, *service, &mut plan),
            Some(Tool::Xtables(program)) => xtables(place, *service, &program, &mut plan),
            Some(Tool::Firewalld) | None => None,
        };
        if written.is_none() {
            plan.note(format!("no command can be written on {} for {service}", place.title()));
        }
    }
    keep(place, &mut plan);
    plan
}

fn keep(place: &Place<'_>, plan: &mut Plan) {
    if plan.steps.is_empty() {
        return;
    }
    plan.note(
        "connections that are open keep their entries until those end; their packets are not tracked from now on all the same",
    );
    let persistence = place.context.map(|context| context.persistence.as_slice()).unwrap_or_default();
    let of_nft = plan.steps.iter().any(|step| step.run.contains(TABLE));
    if place.way != NetnsPath::Here {
        plan.note("no service loads rules into this namespace at boot: have whoever makes it run the commands too");
    } else if of_nft && firewall::keep_table(TABLE, persistence, plan) {
        plan.note(
            "the accepting rules are in the host's own chains: put them into the file that is loaded at boot by hand",
        );
    } else if of_nft || !firewall::keep_saved(persistence, plan) {
        plan.note("nothing was found that loads these rules at boot: it ends with a reboot");
    }
}

/// Both directions of a service, in the words of nft.
fn directions(service: SocketAddr) -> [Vec<String>; 2] {
    let ip = if service.is_ipv4() { "ip" } else { "ip6" };
    let (address, port) = (service.ip().to_string(), service.port().to_string());
    [("daddr", "dport"), ("saddr", "sport")]
        .map(|(which, end)| [ip, which, &address, "tcp", end, &port].map(str::to_owned).to_vec())
}

fn nft(place: &Place<'_>, service: SocketAddr, plan: &mut Plan) -> Option<()> {
    let way = &place.way;
    let once = |run: String| Step { run, undo: Vec::new(), probe: None };
    // First everything lets it pass, then nothing tracks it; the other way round when it is undone.
    let chains = place.context.map(|context| context.chains.as_slice()).unwrap_or_default();
    let filtering = chains.iter().filter(|chain| {
        chain.family.sees(service.is_ipv4())
            && [NfHook::LocalIn, NfHook::Forward, NfHook::LocalOut].into_iter().any(|hook| chain.hooks.has(hook))
    });
    for chain in filtering {
        if !nft_name(&chain.table) || !nft_name(&chain.name) {
            plan.note("a chain that filters has a name that cannot be written: accept untracked packets there by hand");
            continue;
        }
        let at = [chain.family.name(), &chain.table, &chain.name];
        let script = |text: &str| line(way, &[&["sh", "-c", text, "sh"], at.as_slice()].concat());
        let (take_out, is_in) = (script(TAKE_OUT)?, script(IS_IN)?);
        for direction in directions(service) {
            let mut words: Vec<String> = ["nft", "insert", "rule"].into_iter().chain(at).map(str::to_owned).collect();
            words.extend(["ct", "state", "untracked"].map(str::to_owned));
            words.extend(direction);
            words.extend(["accept", "comment", "\"whyrst untrack\""].map(str::to_owned));
            let first = !plan.steps.iter().any(|step| step.undo.contains(&take_out));
            plan.steps.push(Step {
                run: line(way, &words)?,
                undo: first.then(|| take_out.clone()).into_iter().collect(),
                probe: first.then(|| presence(is_in.clone())),
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

fn xtables(place: &Place<'_>, service: SocketAddr, program: &str, plan: &mut Plan) -> Option<()> {
    let command = |table: &str, rest: &[&str]| line(&place.way, &[&[program, "-w", "5", "-t", table], rest].concat());
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
            firewall::what_stays(place, &tool, (table, entries), service.is_ipv4(), plan);
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
