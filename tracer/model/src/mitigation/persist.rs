//! What makes a mitigation survive a reboot. It is printed, never run.

use super::command::{Command, line};
use super::step::FirewalldRule;
use crate::host_context::NetnsPath;
use crate::shell::word;

/// A way to make a mitigation persistent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Persist {
    /// The file that nftables.service loads includes a table of family `inet`.
    NftTable {
        /// The table.
        table: String,
        /// The file.
        file: String,
    },
    /// systemd sets sysctls at boot. The module that has them is loaded before.
    Sysctls {
        /// What distinguishes the names of the files from those of other mitigations.
        name: String,
        /// The values.
        values: Vec<(String, i64)>,
    },
    /// firewalld keeps a rule.
    Firewalld(FirewalldRule),
    /// netfilter-persistent saves all rules.
    NetfilterPersistent,
    /// iptables-services saves all rules.
    IptablesServices,
}

impl Persist {
    /// The lines that make it persistent.
    pub fn keep(&self) -> Vec<String> {
        match self {
            Self::NftTable { table, file } => {
                let own = own_file(table);
                let include = line(&["printf", "%s\\n", &format!("include \"{own}\"")]);
                vec![
                    format!("{} > {}", line(&["nft", "-s", "list", "table", "inet", table]), word(&own)),
                    format!("{include} >> {}", word(file)),
                ]
            }
            Self::Sysctls { name, values } => {
                let settings = values.iter().map(|(name, value)| format!("{name} = {value}"));
                let words: Vec<String> = ["printf", "%s\\n"].into_iter().map(str::to_owned).chain(settings).collect();
                vec![
                    format!("{} > {}", line(&words), word(&sysctl_file(name))),
                    format!("{} > {}", line(&["printf", "%s\\n", "nf_conntrack"]), word(&modules_file(name))),
                ]
            }
            Self::Firewalld(rule) => vec![rule.permanent(true).line(&NetnsPath::Here)],
            Self::NetfilterPersistent | Self::IptablesServices => vec![self.save()],
        }
    }

    /// The lines that undo those.
    pub fn forget(&self) -> Vec<String> {
        match self {
            Self::NftTable { table, file } => {
                let own = own_file(table);
                let delete = format!("\\#^include \"{own}\"$#d");
                vec![line(&["sed", "-i", &delete, file]), line(&["rm", &own])]
            }
            Self::Sysctls { name, .. } => vec![line(&["rm", &sysctl_file(name), &modules_file(name)])],
            Self::Firewalld(rule) => vec![rule.permanent(false).line(&NetnsPath::Here)],
            Self::NetfilterPersistent | Self::IptablesServices => vec![self.save()],
        }
    }

    /// The command that saves all rules, if there is one.
    fn save(&self) -> String {
        let words: &[&str] = match self {
            Self::IptablesServices => &["service", "iptables", "save"],
            _ => &["netfilter-persistent", "save"],
        };
        Command::of(words).line(&NetnsPath::Here)
    }
}

fn own_file(table: &str) -> String {
    format!("/etc/{table}.nft")
}

fn sysctl_file(name: &str) -> String {
    format!("/etc/sysctl.d/90-whyrst-{name}.conf")
}

/// systemd-modules-load.service runs before systemd-sysctl.service, which cannot set sysctls of a module that is loaded later.
fn modules_file(name: &str) -> String {
    format!("/etc/modules-load.d/whyrst-{name}.conf")
}
