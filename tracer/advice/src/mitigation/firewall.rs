//! Rules that keep refused packets from the local stack, in what holds the host's rules.

use std::net::IpAddr;

use tracer_model::host_context::{HostContext, Manager, NetnsPath, Persistence};
use tracer_model::mitigation::{Probe, Shows, Step};
use tracer_model::ruleset::{Backend, Family, Rule};
use tracer_model::shell::word;

use super::command::{line, nft_interface, xtables_interface};
use super::{Place, Plan};

/// The table of nftables that the rules are in: nobody else's, so that it can be taken away whole.
const TABLE: &str = "whyrst";
/// What marks a rule of iptables as whyrst's.
pub(super) const COMMENT: &str = "whyrst";

/// What a rule is written with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tool {
    /// nft.
    Nft,
    /// A program of iptables.
    Xtables(String),
    /// firewalld, which would forget a rule that it has not been told of.
    Firewalld,
}

/// What a rule for this version of IP is written with in a place. Where nothing is known of it, with nft.
pub(super) fn tool(place: &Place<'_>, ipv4: bool) -> Option<Tool> {
    let Some(context) = place.context else { return Some(Tool::Nft) };
    match context.manager {
        Some(Manager::Firewalld) => return Some(Tool::Firewalld),
        // ufw is made of iptables, and leaves alone what is ahead of its own chains.
        Some(Manager::Ufw) => return Some(Tool::Xtables(if ipv4 { "iptables" } else { "ip6tables" }.to_owned())),
        None => {}
    }
    let backend = context.firewall(ipv4)?;
    let tool = context.tool(backend, ipv4)?;
    Some(if backend == Backend::Nftables { Tool::Nft } else { Tool::Xtables(tool) })
}

/// Drops what conntrack refused, for the addresses that packets are wanted for.
pub(super) fn drop_invalid(place: &Place<'_>) -> Plan {
    let mut plan = Plan::default();
    let (mut of_nft, mut of_others) = (Vec::new(), Vec::new());
    for (interface, address) in &place.targets {
        if let Some(rule) = place.context.and_then(|context| context.dropped_by(interface.as_deref(), *address)) {
            plan.note(format!("for {address} on {} this is in force already: {}", place.title(), rule.rule));
            continue;
        }
        match tool(place, address.is_ipv4()) {
            Some(Tool::Nft) => of_nft.push((interface.as_deref(), *address)),
            Some(tool) => of_others.push((tool, interface.as_deref(), *address)),
            None => plan.note(format!("no tool was found on {} that writes a rule for {address}", place.title())),
        }
    }
    if place.targets.is_empty() {
        plan.note(format!(
            "no address is known on {} that connections are translated to: give it with --address, and the interface that \
             the answers come in by with --interface",
            place.title()
        ));
    }
    let mut complete = true;
    if !of_nft.is_empty() {
        complete &= nft(place, &of_nft, &mut plan).is_some();
    }
    for (tool, interface, address) in &of_others {
        complete &= other(place, tool, *interface, *address, &mut plan).is_some();
    }
    if !complete {
        plan.note(format!("some of it cannot be written for {}", place.title()));
    }
    explain(place, &mut plan);
    keep(place, &of_nft, &of_others, &mut plan);
    plan
}

/// A chain of its own, ahead of the host's own INPUT rules.
fn nft(place: &Place<'_>, targets: &[(Option<&str>, IpAddr)], plan: &mut Plan) -> Option<()> {
    let way = &place.way;
    let chain = "{ type filter hook input priority -10; policy accept; }";
    plan.steps.push(Step {
        run: line(way, &["nft", "add", "table", "inet", TABLE])?,
        undo: vec![line(way, &["nft", "delete", "table", "inet", TABLE])?],
        // Without counters, which change.
        probe: Some(presence(line(way, &["nft", "-s", "list", "table", "inet", TABLE])?)),
    });
    let once = |run: String| Step { run, undo: Vec::new(), probe: None };
    plan.steps.push(once(line(way, &["nft", "add", "chain", "inet", TABLE, "input", chain])?));
    for (interface, address) in targets {
        let mut words = ["nft", "add", "rule", "inet", TABLE, "input"].map(str::to_owned).to_vec();
        words.extend(scope(*interface, nft_interface, plan).into_iter().flat_map(|name| ["iifname".to_owned(), name]));
        words.extend([
            if address.is_ipv4() { "ip" } else { "ip6" }.to_owned(),
            "daddr".to_owned(),
            address.to_string(),
        ]);
        let rest = ["meta", "l4proto", "tcp", "ct", "state", "invalid", "counter", "drop"];
        words.extend(rest.map(str::to_owned));
        plan.steps.push(once(line(way, &words)?));
    }
    Some(())
}

/// A rule of iptables or firewalld.
fn other(place: &Place<'_>, tool: &Tool, interface: Option<&str>, address: IpAddr, plan: &mut Plan) -> Option<()> {
    let plain = |name: &str| xtables_interface(name).map(str::to_owned);
    let interface = scope(interface, plain, plan);
    let rule = matches(interface.as_deref(), address);
    let words = |verb: Verb| spelled(tool, verb, address.is_ipv4(), &rule);
    what_stays(place, tool, ("filter", &["INPUT"]), address.is_ipv4(), plan);
    plan.steps.push(Step {
        run: line(&place.way, &words(Verb::Insert))?,
        undo: vec![line(&place.way, &words(Verb::Delete))?],
        probe: Some(presence(line(&place.way, &words(Verb::Check))?)),
    });
    Some(())
}

/// Says what stays behind: iptables makes a table and its chains with the first rule. They are never taken away again, since
/// nothing tells whether they are empty and deletes them in one step: by then a rule of somebody else's may be in them, and
/// iptables-nft of Debian 12 (1.8.9) fails to list a table that nft has written to.
pub(super) fn what_stays(
    place: &Place<'_>,
    tool: &Tool,
    (table, chains): (&str, &[&str]),
    ipv4: bool,
    plan: &mut Plan,
) {
    let (Tool::Xtables(program), Some(context)) = (tool, place.context) else { return };
    let family = if ipv4 { Family::Ip } else { Family::Ip6 };
    let stays = "here yet; an empty one remains when this is undone";
    if !context.xtables.contains(&(family, table.to_owned())) {
        plan.note(format!("{program} has no table {table} {stays}"));
        return;
    }
    let plain_is_nft = context.iptables == Some(Backend::IptablesNft) && !program.ends_with("-legacy");
    if !plain_is_nft && !program.ends_with("-nft") {
        // A legacy table has all its chains from the start.
        return;
    }
    for chain in chains {
        if !context.xchains.contains(&(family, table.to_owned(), (*chain).to_owned())) {
            plan.note(format!("{program} has no chain {chain} in its table {table} {stays}"));
        }
    }
}

/// What the rule asks of a packet, in the words of iptables.
fn matches(interface: Option<&str>, address: IpAddr) -> Vec<String> {
    let mut words: Vec<String> = interface.into_iter().flat_map(|name| ["-i".to_owned(), name.to_owned()]).collect();
    words.extend(["-d".to_owned(), address.to_string()]);
    let rest =
        ["-p", "tcp", "-m", "conntrack", "--ctstate", "INVALID", "-m", "comment", "--comment", COMMENT, "-j", "DROP"];
    words.extend(rest.map(str::to_owned));
    words
}

/// What is done with a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Insert,
    Delete,
    Check,
    Keep,
    Forget,
}

fn spelled(tool: &Tool, verb: Verb, ipv4: bool, rule: &[String]) -> Vec<String> {
    let words: Vec<&str> = match tool {
        Tool::Firewalld => {
            let (permanent, verb) = match verb {
                Verb::Insert => (None, "--add-rule"),
                Verb::Delete => (None, "--remove-rule"),
                Verb::Check => (None, "--query-rule"),
                Verb::Keep => (Some("--permanent"), "--add-rule"),
                Verb::Forget => (Some("--permanent"), "--remove-rule"),
            };
            let family = if ipv4 { "ipv4" } else { "ipv6" };
            ["firewall-cmd"]
                .into_iter()
                .chain(permanent)
                .chain(["--direct", verb, family, "filter", "INPUT", "0"])
                .collect()
        }
        Tool::Xtables(program) => {
            let verb = match verb {
                Verb::Insert | Verb::Keep => "-I",
                Verb::Delete | Verb::Forget => "-D",
                Verb::Check => "-C",
            };
            // Another program may be changing rules at this moment.
            vec![program, "-w", "5", verb, "INPUT"]
        }
        Tool::Nft => Vec::new(),
    };
    words.into_iter().map(str::to_owned).chain(rule.iter().cloned()).collect()
}

pub(super) fn presence(command: String) -> Probe {
    Probe { command, shows: Shows::Presence }
}

/// The interface as its tool takes it. Without one, the rule holds for all.
fn scope(interface: Option<&str>, written: impl Fn(&str) -> Option<String>, plan: &mut Plan) -> Option<String> {
    let found = interface.and_then(written);
    if interface.is_some() && found.is_none() {
        plan.note("an interface has a name that cannot be written in a rule: the rule holds for all interfaces");
    }
    found
}

/// Why the rules are written with this tool.
fn explain(place: &Place<'_>, plan: &mut Plan) {
    let Some(context) = place.context.filter(|_| !plan.steps.is_empty()) else { return };
    let of = |backend: Backend| context.translations.iter().any(|rule| rule.backend == backend);
    let translating: Vec<&str> = Backend::ALL.into_iter().filter(|it| of(*it)).map(Backend::name).collect();
    match context.manager {
        Some(manager) => plan.note(format!("{} owns the rules of {}", manager.name(), place.title())),
        None if !translating.is_empty() => {
            plan.note(format!(
                "{} translates on {}: the rule is written with it",
                translating.join(" and "),
                place.title()
            ));
        }
        None => {}
    }
}

/// What makes the rules outlive a reboot.
fn keep(
    place: &Place<'_>,
    of_nft: &[(Option<&str>, IpAddr)],
    others: &[(Tool, Option<&str>, IpAddr)],
    plan: &mut Plan,
) {
    if plan.steps.is_empty() {
        return;
    }
    let persistence = place.context.map(|context| context.persistence.as_slice()).unwrap_or_default();
    if place.way != NetnsPath::Here {
        plan.note("no service loads rules into this namespace at boot: have whoever makes it run the commands too");
        return;
    }
    let mut kept = true;
    if !of_nft.is_empty() {
        kept &= keep_table(TABLE, persistence, plan);
    }
    let mut saved = false;
    for (tool, interface, address) in others {
        match tool {
            Tool::Firewalld => {
                let interface = interface.and_then(xtables_interface);
                let rule = matches(interface, *address);
                let all = |verb: Verb| line(&place.way, &spelled(tool, verb, address.is_ipv4(), &rule));
                plan.persist.extend(all(Verb::Keep));
                plan.unpersist.extend(all(Verb::Forget));
            }
            _ if place.context.is_some_and(|context| context.manager == Some(Manager::Ufw)) => {
                plan.note("ufw: to keep it, put the rule into /etc/ufw/before.rules, ahead of COMMIT");
            }
            _ if saved => {}
            _ => {
                saved = true;
                kept &= keep_saved(persistence, plan);
            }
        }
    }
    if !kept {
        plan.note(
            "nothing was found that loads rules at boot (nftables.service, netfilter-persistent, iptables.service): it ends \
             with a reboot",
        );
    }
}

/// Has the file that is loaded at boot load a table too.
pub(super) fn keep_table(table: &str, persistence: &[Persistence], plan: &mut Plan) -> bool {
    let file = persistence.iter().find_map(|keeper| match keeper {
        Persistence::Nftables { file } => Some(file),
        _ => None,
    });
    let Some(file) = file else { return false };
    // One that begins with a dash would be an option, to `sed -i` even one that runs a command.
    if !file.starts_with('/') || !super::prints(file) {
        plan.note(
            "the file that nftables.service loads has a path that cannot be written in a command: have it load the table by \
             hand",
        );
        return true;
    }
    let file = word(file);
    let of_table = format!("/etc/{table}.nft");
    plan.persist.push(format!("nft -s list table inet {table} > {of_table}"));
    plan.persist.push(format!("printf '%s\\n' 'include \"{of_table}\"' >> {file}"));
    plan.unpersist.push(format!("sed -i '\\#^include \"{of_table}\"$#d' {file}"));
    plan.unpersist.push(format!("rm {of_table}"));
    true
}

/// Has the rules saved that iptables holds.
pub(super) fn keep_saved(persistence: &[Persistence], plan: &mut Plan) -> bool {
    let save = persistence.iter().find_map(|keeper| match keeper {
        Persistence::NetfilterPersistent => Some("netfilter-persistent save"),
        Persistence::IptablesServices => Some("service iptables save"),
        Persistence::Nftables { .. } => None,
    });
    let Some(save) = save else { return false };
    plan.note(format!("`{save}` saves all rules that are in force, not only these"));
    plan.persist.push(save.to_owned());
    plan.unpersist.push(save.to_owned());
    true
}

/// The words that take a rule away.
pub(super) fn change_of(rule: &Rule) -> Option<Vec<String>> {
    let Rule { backend, family, table, chain, handle, number, .. } = rule;
    if !rule.can_be_named() {
        return None;
    }
    let words: Vec<String> = match (backend, handle, number) {
        (Backend::Nftables, Some(handle), _) => {
            let all = ["nft", "delete", "rule", family.name(), table, chain, "handle"];
            all.into_iter().map(str::to_owned).chain([handle.to_string()]).collect()
        }
        (Backend::IptablesNft | Backend::IptablesLegacy, _, Some(number)) => {
            let program = rule.shown_by().split(' ').next()?.to_owned();
            let all = [program.as_str(), "-t", table, "-D", chain].map(str::to_owned);
            all.into_iter().chain([number.to_string()]).collect()
        }
        _ => return None,
    };
    words.iter().all(|word| super::prints(word)).then_some(words)
}

/// What owns the rules of a place, and would forget ours.
pub(super) fn owner(context: Option<&HostContext>) -> Option<Manager> {
    context.and_then(|context| context.manager)
}
