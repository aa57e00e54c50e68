//! The changes of a mitigation as data. Each renders to the line that is printed and to the program that is run.

use serde::{Deserialize, Serialize};

use super::command::{Command, lead};
use crate::host_context::NetnsPath;
use crate::ruleset::Family;

/// Seconds that iptables waits for the lock that another program holds while it changes rules.
const XTABLES_WAIT: &str = "5";

/// One change, in a network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// How a command enters the namespace.
    pub netns: NetnsPath,
    /// The change.
    #[serde(flatten)]
    pub change: Change,
}

/// A change that can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// A sysctl gets another value.
    Sysctl {
        /// Its name.
        name: String,
        /// Its value before.
        before: i64,
        /// Its value after.
        after: i64,
    },
    /// A table of nftables, made in one transaction.
    NftBatch(NftBatch),
    /// A rule of iptables.
    IptablesRule(IptablesRule),
    /// A direct rule of firewalld.
    FirewalldRule(FirewalldRule),
}

/// A table of family `inet` that nothing else uses, and rules in chains of others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftBatch {
    /// The name of the table.
    pub table: String,
    /// Its chains.
    pub chains: Vec<NftChain>,
    /// Its rules.
    pub rules: Vec<NftRule>,
    /// Rules at the start of chains of others.
    #[serde(default)]
    pub inserts: Vec<NftInsert>,
    /// The comment of every rule.
    pub comment: String,
}

/// A base chain that filters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftChain {
    /// Its name.
    pub name: String,
    /// Its hook.
    pub hook: String,
    /// Its priority, as nft reads it.
    pub priority: String,
}

/// A rule of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftRule {
    /// Its chain.
    pub chain: String,
    /// Its matches and statements, as nft reads them.
    pub rule: String,
}

/// A rule at the start of a chain of another table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NftInsert {
    /// The family of the table.
    pub family: Family,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
    /// Its matches and statements, as nft reads them.
    pub rule: String,
}

/// A rule at the start of a chain of iptables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IptablesRule {
    /// The program that writes it.
    pub program: String,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its matches and its target, with a comment.
    pub rule: Vec<String>,
}

/// A direct rule of firewalld, at the start of a chain of table `filter`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewalldRule {
    /// Whether it is for IPv4.
    pub ipv4: bool,
    /// Its chain.
    pub chain: String,
    /// Its matches and its target, with a comment.
    pub rule: Vec<String>,
}

/// A question whether a change is in force. It changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The value of the sysctl with this name.
    Sysctl(String),
    /// A listing of nft, as JSON.
    Nft(Command),
    /// `iptables --check`.
    Iptables(Command),
    /// `firewall-cmd --query-rule`.
    Firewalld(Command),
}

impl Step {
    /// The program that makes the change.
    pub fn apply(&self) -> Command {
        match &self.change {
            Change::Sysctl { name, after, .. } => sysctl(name, *after),
            Change::NftBatch(batch) => Command::nft(batch.statements()),
            Change::IptablesRule(rule) => rule.command("-I"),
            Change::FirewalldRule(rule) => rule.command("--add-rule"),
        }
    }

    /// The program that undoes it where the handles of nftables are unknown: it leaves rules in chains of others.
    pub fn undo(&self) -> Command {
        match &self.change {
            Change::Sysctl { name, before, .. } => sysctl(name, *before),
            Change::NftBatch(batch) => Command::of(&["nft", "delete", "table", "inet", &batch.table]),
            Change::IptablesRule(rule) => rule.command("-D"),
            Change::FirewalldRule(rule) => rule.command("--remove-rule"),
        }
    }

    /// The questions whether it is in force. Those of nftables are for its own table first, then for the chains of others.
    pub fn probes(&self) -> Vec<Probe> {
        match &self.change {
            Change::Sysctl { name, .. } => vec![Probe::Sysctl(name.clone())],
            Change::NftBatch(batch) => {
                let table = Command::of(&["nft", "-j", "list", "table", "inet", &batch.table]);
                let mut probes = vec![Probe::Nft(table)];
                for NftInsert { family, table, chain, .. } in &batch.inserts {
                    let probe = Probe::Nft(Command::of(&["nft", "-j", "list", "chain", family.name(), table, chain]));
                    if !probes.contains(&probe) {
                        probes.push(probe);
                    }
                }
                probes
            }
            Change::IptablesRule(rule) => vec![Probe::Iptables(rule.command("-C"))],
            Change::FirewalldRule(rule) => vec![Probe::Firewalld(rule.command("--query-rule"))],
        }
    }

    /// The program that lists the rule with its counters; none without a rule, or where it cannot be listed.
    pub fn counters(&self) -> Option<Probe> {
        match &self.change {
            Change::NftBatch(_) => self.probes().into_iter().next(),
            Change::IptablesRule(rule) => Some(Probe::Iptables(rule.listing())),
            Change::Sysctl { .. } | Change::FirewalldRule(_) => None,
        }
    }

    /// The line that makes the change.
    pub fn apply_line(&self) -> String {
        self.apply().line(&self.netns)
    }

    /// The line that undoes it.
    pub fn undo_line(&self) -> String {
        self.undo().line(&self.netns)
    }

    /// All words that are printed for it.
    pub fn words(&self) -> Vec<String> {
        [lead(&self.netns), self.apply().words(), self.undo().words()].concat()
    }
}

impl Probe {
    /// The question as a line.
    pub fn line(&self, netns: &NetnsPath) -> String {
        match self {
            Self::Sysctl(name) => Command::of(&["sysctl", "-n", name]).line(netns),
            Self::Nft(command) | Self::Iptables(command) | Self::Firewalld(command) => command.line(netns),
        }
    }
}

impl NftBatch {
    /// The statements of the transaction. `create` fails where there is such a table or chain.
    pub fn statements(&self) -> Vec<String> {
        let Self { table, chains, rules, inserts, comment } = self;
        let table_statement = [format!("create table inet {table}")];
        let chains = chains.iter().map(|NftChain { name, hook, priority }| {
            format!(
                "create chain inet {table} {name} {{ type filter hook {hook} priority {priority}; policy accept; }}"
            )
        });
        let rules = rules
            .iter()
            .map(|NftRule { chain, rule }| format!("add rule inet {table} {chain} {rule} comment \"{comment}\""));
        let inserts = inserts.iter().map(|NftInsert { family, table, chain, rule }| {
            format!("insert rule {} {table} {chain} {rule} comment \"{comment}\"", family.name())
        });
        table_statement.into_iter().chain(chains).chain(rules).chain(inserts).collect()
    }
}

impl IptablesRule {
    fn command(&self, verb: &str) -> Command {
        let Self { program, table, chain, rule } = self;
        let mut words = vec![program.as_str(), "-w", XTABLES_WAIT];
        if table != "filter" {
            words.extend(["-t", table]);
        }
        words.extend([verb, chain]);
        words.extend(rule.iter().map(String::as_str));
        Command::of(&words)
    }

    fn listing(&self) -> Command {
        Command::of(&[&self.program, "-w", XTABLES_WAIT, "-t", &self.table, "-v", "-S", &self.chain])
    }
}

impl FirewalldRule {
    fn words(&self, before: &[&str], verb: &str) -> Command {
        let family = if self.ipv4 { "ipv4" } else { "ipv6" };
        let mut words = vec!["firewall-cmd"];
        words.extend(before);
        words.extend(["--direct", verb, family, "filter", &self.chain, "0"]);
        words.extend(self.rule.iter().map(String::as_str));
        Command::of(&words)
    }

    fn command(&self, verb: &str) -> Command {
        self.words(&[], verb)
    }

    /// The program that keeps the rule over a reboot, or no longer keeps it.
    pub fn permanent(&self, keep: bool) -> Command {
        self.words(&["--permanent"], if keep { "--add-rule" } else { "--remove-rule" })
    }
}

fn sysctl(name: &str, value: i64) -> Command {
    Command::of(&["sysctl", "-w", &format!("{name}={value}")])
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::{Change, Command, FirewalldRule, IptablesRule, NftBatch, NftChain, NftInsert, NftRule, Probe, Step};
    use crate::host_context::NetnsPath;
    use crate::ruleset::Family;

    fn batch() -> NftBatch {
        NftBatch {
            table: "whyrst".to_owned(),
            chains: vec![NftChain { name: "input".to_owned(), hook: "input".to_owned(), priority: "-10".to_owned() }],
            rules: vec![NftRule {
                chain: "input".to_owned(),
                rule: "iifname \"it's;0\" ct state invalid counter drop".to_owned(),
            }],
            inserts: vec![NftInsert {
                family: Family::Inet,
                table: "filter".to_owned(),
                chain: "forward".to_owned(),
                rule: "ct state untracked accept".to_owned(),
            }],
            comment: "whyrst:drop-invalid-input".to_owned(),
        }
    }

    fn step(change: Change) -> Step {
        Step { netns: NetnsPath::Named("a;b".to_owned()), change }
    }

    /// nft creates the table, and everything in one transaction.
    #[test]
    fn a_batch_of_nftables() {
        let step = step(Change::NftBatch(batch()));
        let Command { argv, statements } = step.apply();
        assert_eq!(argv, ["nft", "-f", "-"]);
        assert_eq!(
            statements,
            [
                "create table inet whyrst",
                "create chain inet whyrst input { type filter hook input priority -10; policy accept; }",
                "add rule inet whyrst input iifname \"it's;0\" ct state invalid counter drop comment \
                 \"whyrst:drop-invalid-input\"",
                "insert rule inet filter forward ct state untracked accept comment \"whyrst:drop-invalid-input\"",
            ]
        );
        assert_eq!(step.undo_line(), "ip netns exec 'a;b' nft delete table inet whyrst");
        let probes: Vec<String> = step.probes().iter().map(|probe| probe.line(&NetnsPath::Here)).collect();
        assert_eq!(probes, ["nft -j list table inet whyrst", "nft -j list chain inet filter forward"]);
    }

    /// A shell reads the printed line as the words that were meant.
    #[test]
    fn a_shell_reads_the_words() {
        let step = step(Change::NftBatch(batch()));
        let script = format!("printf '%s\\n' {}", step.apply_line());
        let output = process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let statements = batch().statements().join("; ");
        let expected = ["ip", "netns", "exec", "a;b", "nft", &statements].map(|word| format!("{word}\n")).concat();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }

    #[test]
    fn rules_of_other_tools() {
        let rule = ["-d", "192.0.2.1", "-j", "DROP"].map(str::to_owned).to_vec();
        let iptables = |table: &str| {
            step(Change::IptablesRule(IptablesRule {
                program: "iptables".to_owned(),
                table: table.to_owned(),
                chain: "INPUT".to_owned(),
                rule: rule.clone(),
            }))
        };
        let lead = "ip netns exec 'a;b'";
        assert_eq!(iptables("filter").apply_line(), format!("{lead} iptables -w 5 -I INPUT -d 192.0.2.1 -j DROP"));
        assert_eq!(iptables("raw").undo_line(), format!("{lead} iptables -w 5 -t raw -D INPUT -d 192.0.2.1 -j DROP"));
        let check = Command::of(&["iptables", "-w", "5", "-C", "INPUT", "-d", "192.0.2.1", "-j", "DROP"]);
        assert_eq!(iptables("filter").probes(), [Probe::Iptables(check)]);
        let firewalld = FirewalldRule { ipv4: false, chain: "INPUT".to_owned(), rule };
        assert_eq!(
            firewalld.permanent(true).line(&NetnsPath::Here),
            "firewall-cmd --permanent --direct --add-rule ipv6 filter INPUT 0 -d 192.0.2.1 -j DROP"
        );
        let firewalld = step(Change::FirewalldRule(firewalld));
        assert_eq!(firewalld.counters(), None);
        let probes: Vec<String> = firewalld.probes().iter().map(|probe| probe.line(&NetnsPath::Here)).collect();
        assert_eq!(probes, ["firewall-cmd --direct --query-rule ipv6 filter INPUT 0 -d 192.0.2.1 -j DROP"]);
    }

    #[test]
    fn a_sysctl() {
        let change = Change::Sysctl { name: "net.netfilter.nf_conntrack_max".to_owned(), before: 1, after: 2 };
        let step = Step { netns: NetnsPath::Process(1), change };
        assert_eq!(step.apply_line(), "nsenter -t 1 -n sysctl -w net.netfilter.nf_conntrack_max=2");
        assert_eq!(step.undo_line(), "nsenter -t 1 -n sysctl -w net.netfilter.nf_conntrack_max=1");
        assert_eq!(step.probes(), [Probe::Sysctl("net.netfilter.nf_conntrack_max".to_owned())]);
        assert_eq!(step.counters(), None);
    }
}
