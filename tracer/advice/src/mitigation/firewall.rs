//! Rules that drop INVALID packets before the local stack, written with the tool that the host's rules are written with.

use std::net::IpAddr;

use tracer_model::host_context::{HostContext, Manager, NetnsPath, Persistence};
use tracer_model::mitigation::{Probe, Shows, Step};
use tracer_model::ruleset::{Backend, Family, Rule};
use tracer_model::shell::word;

use super::command::{line, nft_interface, xtables_interface};
use super::{Plan, Target};

/// The nftables table of these rules. It holds nothing else, so it can be deleted as a whole.
const TABLE: &str = "whyrst";
/// The comment on whyrst's iptables rules.
pub(super) const COMMENT: &str = "whyrst";

/// The tool that writes a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tool {
    /// nft.
    Nft,
    /// A program of iptables.
    Xtables(String),
    /// firewalld, which drops rules that it does not know.
    Firewalld,
}

/// The tool for rules of this IP version on a target; nft if the context is unknown.
pub(super) fn tool(target: &Target<'_>, ipv4: bool) -> Option<Tool> {
    let Some(context) = target.context else { return Some(Tool::Nft) };
    match context.manager {
        Some(Manager::Firewalld) => return Some(Tool::Firewalld),
        // ufw uses iptables, and keeps rules ahead of its own chains.
        Some(Manager::Ufw) => return Some(Tool::Xtables(if ipv4 { "iptables" } else { "ip6tables" }.to_owned())),
        None => {}
    }
    let backend = context.firewall(ipv4)?;
    let tool = context.tool(backend, ipv4)?;
    Some(if backend == Backend::Nftables { Tool::Nft } else { Tool::Xtables(tool) })
}

/// Drops INVALID packets to the target's addresses.
pub(super) fn drop_invalid(target: &Target<'_>) -> Plan {
    let mut plan = Plan::default();
    let (mut of_nft, mut of_others) = (Vec::new(), Vec::new());
    for (interface, address) in &target.addresses {
        if let Some(rule) = target.context.and_then(|context| context.dropped_by(interface.as_deref(), *address)) {
            plan.note(format!("{address} on {} is already covered by: {}", target.title(), rule.rule));
            continue;
        }
        match tool(target, address.is_ipv4()) {
            Some(Tool::Nft) => of_nft.push((interface.as_deref(), *address)),
            Some(tool) => of_others.push((tool, interface.as_deref(), *address)),
            None => plan.note(format!("{} has no tool that writes a rule for {address}", target.title())),
        }
    }
    if target.addresses.is_empty() {
        plan.note(format!(
            "no address is known on {} that connections are translated to: name it with --address, and the ingress \
             interface of the replies with --interface",
            target.title()
        ));
    }
    let mut complete = true;
    if !of_nft.is_empty() {
        complete &= nft(target, &of_nft, &mut plan).is_some();
    }
    for (tool, interface, address) in &of_others {
        complete &= other(target, tool, *interface, *address, &mut plan).is_some();
    }
    if !complete {
        plan.note(format!("some of the commands cannot be written for {}", target.title()));
    }
    explain(target, &mut plan);
    keep(target, &of_nft, &of_others, &mut plan);
    plan
}

/// A separate chain, ahead of the host's INPUT rules.
fn nft(target: &Target<'_>, addresses: &[(Option<&str>, IpAddr)], plan: &mut Plan) -> Option<()> {
    let way = &target.way;
    let chain = "{ type filter hook input priority -10; policy accept; }";
    plan.steps.push(Step {
        run: line(way, &["nft", "add", "table", "inet", TABLE])?,
        undo: vec![line(way, &["nft", "delete", "table", "inet", TABLE])?],
        // Without counters, which change.
        probe: Some(presence(line(way, &["nft", "-s", "list", "table", "inet", TABLE])?)),
    });
    let once = |run: String| Step { run, undo: Vec::new(), probe: None };
    plan.steps.push(once(line(way, &["nft", "add", "chain", "inet", TABLE, "input", chain])?));
    for (interface, address) in addresses {
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

/// A rule for iptables or firewalld.
fn other(target: &Target<'_>, tool: &Tool, interface: Option<&str>, address: IpAddr, plan: &mut Plan) -> Option<()> {
    let plain = |name: &str| xtables_interface(name).map(str::to_owned);
    let interface = scope(interface, plain, plan);
    let rule = matches(interface.as_deref(), address);
    let words = |verb: Verb| spelled(tool, verb, address.is_ipv4(), &rule);
    note_leftovers(target, tool, ("filter", &["INPUT"]), address.is_ipv4(), plan);
    plan.steps.push(Step {
        run: line(&target.way, &words(Verb::Insert))?,
        undo: vec![line(&target.way, &words(Verb::Delete))?],
        probe: Some(presence(line(&target.way, &words(Verb::Check))?)),
    });
    Some(())
}

/// Notes what remains after undo: iptables creates a table and its chains with the first rule. whyrst never deletes them,
/// because no command checks for other rules and deletes in one step, and iptables-nft of Debian 12 (1.8.9) fails to list
/// a table that nft has written to.
pub(super) fn note_leftovers(
    target: &Target<'_>,
    tool: &Tool,
    (table, chains): (&str, &[&str]),
    ipv4: bool,
    plan: &mut Plan,
) {
    let (Tool::Xtables(program), Some(context)) = (tool, target.context) else { return };
    let family = if ipv4 { Family::Ip } else { Family::Ip6 };
    let leftover = "here yet; undo leaves an empty one";
    if !context.xtables.contains(&(family, table.to_owned())) {
        plan.note(format!("{program} has no table {table} {leftover}"));
        return;
    }
    let plain_is_nft = context.iptables == Some(Backend::IptablesNft) && !program.ends_with("-legacy");
    if !plain_is_nft && !program.ends_with("-nft") {
        // A legacy table has all its chains from the start.
        return;
    }
    for chain in chains {
        if !context.xchains.contains(&(family, table.to_owned(), (*chain).to_owned())) {
            plan.note(format!("{program} has no chain {chain} in its table {table} {leftover}"));
        }
    }
}

/// The rule's matches and target, as iptables arguments.
fn matches(interface: Option<&str>, address: IpAddr) -> Vec<String> {
    let mut words: Vec<String> = interface.into_iter().flat_map(|name| ["-i".to_owned(), name.to_owned()]).collect();
    words.extend(["-d".to_owned(), address.to_string()]);
    let rest =
        ["-p", "tcp", "-m", "conntrack", "--ctstate", "INVALID", "-m", "comment", "--comment", COMMENT, "-j", "DROP"];
    words.extend(rest.map(str::to_owned));
    words
}

/// An operation on a rule.
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
            // Wait for the xtables lock: another program may be changing rules.
            vec![program, "-w", "5", verb, "INPUT"]
        }
        Tool::Nft => Vec::new(),
    };
    words.into_iter().map(str::to_owned).chain(rule.iter().cloned()).collect()
}

pub(super) fn presence(command: String) -> Probe {
    Probe { command, shows: Shows::Presence }
}

/// The interface, written for the tool. Without one, the rule applies to all interfaces.
fn scope(interface: Option<&str>, written: impl Fn(&str) -> Option<String>, plan: &mut Plan) -> Option<String> {
    let found = interface.and_then(written);
    if interface.is_some() && found.is_none() {
        plan.note("the name of an interface cannot be written in a rule: the rule applies to all interfaces");
    }
    found
}

/// Notes why this tool writes the rules.
fn explain(target: &Target<'_>, plan: &mut Plan) {
    let Some(context) = target.context.filter(|_| !plan.steps.is_empty()) else { return };
    let of = |backend: Backend| context.translations.iter().any(|rule| rule.backend == backend);
    let translating: Vec<&str> = Backend::ALL.into_iter().filter(|it| of(*it)).map(Backend::name).collect();
    match context.manager {
        Some(manager) => plan.note(format!("{} manages the rules of {}", manager.name(), target.title())),
        None if !translating.is_empty() => {
            plan.note(format!(
                "{} does NAT on {}: the rule is written with it",
                translating.join(" and "),
                target.title()
            ));
        }
        None => {}
    }
}

/// Makes the rules persistent.
fn keep(
    target: &Target<'_>,
    of_nft: &[(Option<&str>, IpAddr)],
    others: &[(Tool, Option<&str>, IpAddr)],
    plan: &mut Plan,
) {
    if plan.steps.is_empty() {
        return;
    }
    let persistence = target.context.map(|context| context.persistence.as_slice()).unwrap_or_default();
    if target.way != NetnsPath::Here {
        plan.note("no service loads rules into this namespace at boot: add the commands to what creates it");
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
                let all = |verb: Verb| line(&target.way, &spelled(tool, verb, address.is_ipv4(), &rule));
                plan.persist.extend(all(Verb::Keep));
                plan.unpersist.extend(all(Verb::Forget));
            }
            _ if target.context.is_some_and(|context| context.manager == Some(Manager::Ufw)) => {
                plan.note("ufw: to make the rule persistent, add it to /etc/ufw/before.rules, ahead of COMMIT");
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
            "nothing loads rules at boot (nftables.service, netfilter-persistent, iptables.service): a reboot removes this \
             rule",
        );
    }
}

/// Includes a table in the file that nftables.service loads at boot.
pub(super) fn keep_table(table: &str, persistence: &[Persistence], plan: &mut Plan) -> bool {
    let file = persistence.iter().find_map(|persistence| match persistence {
        Persistence::Nftables { file } => Some(file),
        _ => None,
    });
    let Some(file) = file else { return false };
    // A leading dash would be an option; `sed` even has one that runs a command.
    if !file.starts_with('/') || !super::prints(file) {
        plan.note(
            "the path of the file that nftables.service loads cannot be written in a command: include the table by hand",
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

/// Saves the rules of iptables.
pub(super) fn keep_saved(persistence: &[Persistence], plan: &mut Plan) -> bool {
    let save = persistence.iter().find_map(|persistence| match persistence {
        Persistence::NetfilterPersistent => Some("netfilter-persistent save"),
        Persistence::IptablesServices => Some("service iptables save"),
        Persistence::Nftables { .. } => None,
    });
    let Some(save) = save else { return false };
    plan.note(format!("`{save}` saves all current rules, not only these"));
    plan.persist.push(save.to_owned());
    plan.unpersist.push(save.to_owned());
    true
}

/// The command that deletes a rule.
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

/// The manager of a host's rules, which would remove whyrst's.
pub(super) fn manager(context: Option<&HostContext>) -> Option<Manager> {
    context.and_then(|context| context.manager)
}
