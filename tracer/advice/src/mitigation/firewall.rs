//! Rules that drop INVALID packets before the local stack: in a table of nftables that nothing else uses, else with the tool
//! that the host's rules are written with.

use std::net::IpAddr;

use tracer_model::host_context::{HostContext, Manager, NetnsPath, Persistence};
use tracer_model::mitigation::{
    Change, FirewalldRule, IptablesRule, MitigationId, NftBatch, NftChain, NftRule, Persist,
};
use tracer_model::ruleset::{Backend, Family, Rule};

use super::command::{nft_interface, xtables_interface};
use super::{Plan, Target, comment, effect};

/// The nftables table of these rules. It holds nothing else, so it can be deleted as a whole.
pub(super) const TABLE: &str = "whyrst";

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

/// The tool for rules of this IP version on a target: nft where the host has it, and also if the context is unknown.
pub(super) fn tool(target: &Target<'_>, ipv4: bool) -> Option<Tool> {
    let Some(context) = target.context else { return Some(Tool::Nft) };
    if context.manager == Some(Manager::Firewalld) {
        return Some(Tool::Firewalld);
    }
    if context.has("nft") {
        return Some(Tool::Nft);
    }
    if context.manager == Some(Manager::Ufw) {
        // ufw uses iptables, and keeps rules ahead of its own chains.
        return Some(Tool::Xtables(if ipv4 { "iptables" } else { "ip6tables" }.to_owned()));
    }
    context.tool(context.firewall(ipv4)?, ipv4).map(Tool::Xtables)
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
        if let Some(by) = effect::already_dropped(target, interface.as_deref(), *address) {
            plan.note(format!("{address} on {} is already covered by: {by}", target.title()));
            continue;
        }
        match tool(target, address.is_ipv4()) {
            Some(Tool::Nft) => of_nft.push((interface.as_deref(), *address)),
            Some(tool) => {
                if let Some(answers) = effect::before_input(target, interface.as_deref(), *address) {
                    plan.note(format!("the rule for {address} would take no effect: {answers} decides before it"));
                }
                of_others.push((tool, interface.as_deref(), *address));
            }
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
        complete &= nft(target, &of_nft, &mut plan);
    }
    for (tool, interface, address) in &of_others {
        complete &= other(target, tool, *interface, *address, &mut plan);
    }
    if !complete {
        plan.note(format!("some of the commands cannot be written for {}", target.title()));
    }
    explain(target, !of_nft.is_empty(), &mut plan);
    keep(target, &of_nft, &of_others, &mut plan);
    plan
}

/// A table of its own, with one rule for each address.
fn nft(target: &Target<'_>, addresses: &[(Option<&str>, IpAddr)], plan: &mut Plan) -> bool {
    let mut rules = Vec::new();
    for (interface, address) in addresses {
        let input = scope(*interface, nft_interface, plan).map(|name| format!("iifname {name} ")).unwrap_or_default();
        let ip = if address.is_ipv4() { "ip" } else { "ip6" };
        let rule = format!("{input}{ip} daddr {address} meta l4proto tcp ct state invalid counter drop");
        rules.push(NftRule { chain: "input".to_owned(), rule });
    }
    let place = effect::place(target, addresses, plan);
    let (hook, priority) = (place.hook.to_owned(), place.priority.to_string());
    let chain = NftChain { name: "input".to_owned(), hook, priority };
    let batch = NftBatch {
        table: TABLE.to_owned(),
        chains: vec![chain],
        rules,
        inserts: Vec::new(),
        comment: comment(MitigationId::DropInvalidInput),
    };
    plan.step(&target.way, Change::NftBatch(batch))
}

/// A rule for iptables or firewalld.
fn other(target: &Target<'_>, tool: &Tool, interface: Option<&str>, address: IpAddr, plan: &mut Plan) -> bool {
    let plain = |name: &str| xtables_interface(name).map(str::to_owned);
    let interface = scope(interface, plain, plan);
    let rule = matches(interface.as_deref(), address);
    let chain = "INPUT".to_owned();
    let change = match tool {
        Tool::Xtables(program) => {
            note_leftovers(target, program, ("filter", &["INPUT"]), address.is_ipv4(), plan);
            let (program, table) = (program.clone(), "filter".to_owned());
            Change::IptablesRule(IptablesRule { program, table, chain, rule })
        }
        Tool::Nft | Tool::Firewalld => Change::FirewalldRule(FirewalldRule { ipv4: address.is_ipv4(), chain, rule }),
    };
    plan.step(&target.way, change)
}

/// Notes what remains after undo: iptables creates a table and its chains with the first rule. whyrst never deletes them,
/// because no command checks for other rules and deletes in one step, and iptables-nft of Debian 12 (1.8.9) fails to list
/// a table that nft has written to.
pub(super) fn note_leftovers(
    target: &Target<'_>,
    program: &str,
    (table, chains): (&str, &[&str]),
    ipv4: bool,
    plan: &mut Plan,
) {
    let Some(context) = target.context else { return };
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
    words.extend(["-p", "tcp", "-m", "conntrack", "--ctstate", "INVALID"].map(str::to_owned));
    words.extend(["-m", "comment", "--comment"].map(str::to_owned));
    words.extend([comment(MitigationId::DropInvalidInput), "-j".to_owned(), "DROP".to_owned()]);
    words
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
fn explain(target: &Target<'_>, of_nft: bool, plan: &mut Plan) {
    let Some(context) = target.context.filter(|_| !plan.steps.is_empty()) else { return };
    let of = |backend: Backend| context.translations.iter().any(|rule| rule.backend == backend);
    let translating: Vec<&str> = Backend::ALL.into_iter().filter(|it| of(*it)).map(Backend::name).collect();
    match context.manager {
        Some(manager) => plan.note(format!("{} manages the rules of {}", manager.name(), target.title())),
        None if of_nft && translating.iter().any(|name| *name != Backend::Nftables.name()) => {
            plan.note(format!(
                "{} does NAT on {}: the rule is in a table of nftables of its own, which iptables does not list",
                translating.join(" and "),
                target.title()
            ));
        }
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
                let rule = matches(interface.and_then(xtables_interface), *address);
                let (ipv4, chain) = (address.is_ipv4(), "INPUT".to_owned());
                plan.persist.push(Persist::Firewalld(FirewalldRule { ipv4, chain, rule }));
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
    plan.persist.push(Persist::NftTable { table: table.to_owned(), file: file.clone() });
    true
}

/// Saves the rules of iptables.
pub(super) fn keep_saved(persistence: &[Persistence], plan: &mut Plan) -> bool {
    let save = persistence.iter().find_map(|persistence| match persistence {
        Persistence::NetfilterPersistent => Some(Persist::NetfilterPersistent),
        Persistence::IptablesServices => Some(Persist::IptablesServices),
        Persistence::Nftables { .. } => None,
    });
    let Some(save) = save else { return false };
    plan.note(format!("`{}` saves all current rules, not only these", save.keep().join("; ")));
    plan.persist.push(save);
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
