//! The table of rulesets: readable files, each with a line that says what it is, and the tools that load them.
//!
//! The comments at the head of a file may also name its gateway's interfaces (`# interfaces: lan=br-lan wan=eth0 bridge
//! others=docker0`), and files that are loaded with it (`# with: NAME`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::gateway::{Gateway, Interfaces};
use super::probe::Ip;
use crate::command;

/// A tool that loads rulesets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// nft.
    Nft,
    /// iptables on nftables.
    IptablesNft,
    /// Legacy iptables.
    IptablesLegacy,
}

impl Backend {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::IptablesNft => "iptables-nft",
            Self::IptablesLegacy => "iptables-legacy",
        }
    }
}

/// A ruleset.
#[derive(Debug, Clone)]
pub struct Case {
    /// The name of its file.
    pub name: String,
    /// What it is.
    pub about: String,
    /// The interfaces of its gateway.
    pub interfaces: Interfaces,
    /// Its files, in the order in which they are loaded.
    pub parts: Vec<Part>,
}

/// What is loaded at once.
#[derive(Debug, Clone)]
pub struct Part {
    /// The notation.
    pub notation: Notation,
    /// The rules.
    pub text: String,
}

/// The notation of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Notation {
    /// nft's.
    Nft,
    /// That of `iptables-save`.
    Save,
    /// That of `ip6tables-save`.
    Save6,
}

impl Notation {
    /// The notation of a file with such a name.
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "nft" => Some(Self::Nft),
            "save" => Some(Self::Save),
            "save6" => Some(Self::Save6),
            _ => None,
        }
    }

    /// The tools that load it.
    pub const fn backends(self) -> &'static [Backend] {
        match self {
            Self::Nft => &[Backend::Nft],
            Self::Save | Self::Save6 => &[Backend::IptablesLegacy, Backend::IptablesNft],
        }
    }

    /// The families of packets that meet it.
    pub const fn families(self) -> &'static [Ip] {
        match self {
            Self::Nft => &[Ip::V4, Ip::V6],
            Self::Save => &[Ip::V4],
            Self::Save6 => &[Ip::V6],
        }
    }
}

impl Part {
    /// Loads it in the namespace of this thread, where it is written for two backends by this one.
    pub fn load(&self, backend: Backend) -> Result<()> {
        let mut command = match (self.notation, backend) {
            (Notation::Nft, _) => Command::new("nft"),
            (Notation::Save, Backend::IptablesLegacy) => Command::new("iptables-legacy-restore"),
            (Notation::Save, _) => Command::new("iptables-nft-restore"),
            (Notation::Save6, Backend::IptablesLegacy) => Command::new("ip6tables-legacy-restore"),
            (Notation::Save6, _) => Command::new("ip6tables-nft-restore"),
        };
        match (self.notation, backend) {
            (Notation::Nft, _) => command.args(["-f", "-"]),
            (_, Backend::IptablesLegacy) => command.args(["-w", "60"]),
            _ => &mut command,
        };
        command::feed(&mut command, &self.text)
    }
}

impl Case {
    /// All of a directory, by name.
    pub fn all(directory: &Path) -> Result<Vec<Self>> {
        let listing = fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
        let mut paths = listing.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
        paths.sort();
        paths.iter().filter(|path| Notation::of(path).is_some()).map(|path| Self::read(path)).collect()
    }

    /// Reads one.
    pub fn read(path: &Path) -> Result<Self> {
        let context = || path.display().to_string();
        let notation = Notation::of(path).with_context(context)?;
        let text = fs::read_to_string(path).with_context(context)?;
        let head: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# ")).collect();
        let (about, rest) = head.split_first().with_context(|| format!("{}: no comment", path.display()))?;
        let about = (*about).to_owned();
        let mut interfaces = Interfaces::default();
        let mut others = Vec::new();
        for line in rest {
            if let Some(words) = line.strip_prefix("interfaces: ") {
                interfaces = read_interfaces(words).with_context(context)?;
            } else if let Some(name) = line.strip_prefix("with: ") {
                let other = path.with_file_name(name);
                let context = || other.display().to_string();
                let notation = Notation::of(&other).with_context(context)?;
                others.push(Part { notation, text: fs::read_to_string(&other).with_context(context)? });
            }
        }
        let name = path.file_name().and_then(|name| name.to_str()).with_context(context)?.to_owned();
        let mut parts = vec![Part { notation, text }];
        parts.extend(others);
        Ok(Self { name, about, interfaces, parts })
    }

    /// The tools that load it.
    pub fn backends(&self) -> &'static [Backend] {
        let xtables = self.parts.iter().find(|part| part.notation != Notation::Nft);
        xtables.map_or(Notation::Nft, |part| part.notation).backends()
    }

    /// The families of packets that meet it.
    pub fn families(&self) -> Vec<Ip> {
        let mut families: Vec<Ip> = self.parts.iter().flat_map(|part| part.notation.families()).copied().collect();
        families.sort();
        families.dedup();
        families
    }

    /// Loads it into a gateway.
    pub fn load(&self, gateway: &Gateway, backend: Backend) -> Result<()> {
        gateway
            .namespace
            .enter(|| self.parts.iter().try_for_each(|part| part.load(backend)))?
            .with_context(|| format!("loading {} by {}", self.name, backend.name()))
    }
}

fn read_interfaces(words: &str) -> Result<Interfaces> {
    let mut interfaces = Interfaces::default();
    for word in words.split_whitespace() {
        match word.split_once('=') {
            Some(("lan", name)) => name.clone_into(&mut interfaces.lan),
            Some(("wan", name)) => name.clone_into(&mut interfaces.wan),
            Some(("others", names)) => interfaces.others = names.split(',').map(str::to_owned).collect(),
            None if word == "bridge" => interfaces.bridge = true,
            _ => bail!("interfaces: `{word}`"),
        }
    }
    ensure!(interfaces.lan != interfaces.wan, "one interface for both sides");
    Ok(interfaces)
}
