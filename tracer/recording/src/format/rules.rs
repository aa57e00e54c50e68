//! The frame of a namespace's rules.

use serde::{Deserialize, Serialize};

use tracer_model::ruleset::{Backend, Family, Hooks, Key, Rule, Rules, Test};
use tracer_model::time::Instant;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct RulesDto {
    netns: u32,
    began_ns: u64,
    at_ns: u64,
    #[serde(default)]
    generation: Option<u32>,
    #[serde(default)]
    bridged: bool,
    rules: Vec<RuleDto>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RuleDto {
    backend: String,
    family: String,
    table: String,
    chain: String,
    #[serde(default)]
    handle: Option<u64>,
    #[serde(default)]
    number: Option<u32>,
    place: u32,
    hooks: u8,
    tests: Vec<TestDto>,
    complete: bool,
    #[serde(default)]
    packets: Option<u64>,
    text: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct TestDto {
    #[serde(flatten)]
    key: KeyDto,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mask: Vec<u8>,
    bounds: Vec<(Vec<u8>, Vec<u8>)>,
    inside: bool,
}

/// State is written in the byte order of the records: a recording says which that is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(tag = "key", rename_all = "kebab-case")]
enum KeyDto {
    InputName,
    OutputName,
    Transport,
    Family,
    EtherType,
    State,
    NetworkHeader {
        offset: u32,
    },
    TransportHeader {
        offset: u32,
    },
    #[serde(other)]
    Unknown,
}

impl From<Key> for KeyDto {
    fn from(key: Key) -> Self {
        match key {
            Key::InputName => Self::InputName,
            Key::OutputName => Self::OutputName,
            Key::Transport => Self::Transport,
            Key::Family => Self::Family,
            Key::EtherType => Self::EtherType,
            Key::State => Self::State,
            Key::NetworkHeader { offset } => Self::NetworkHeader { offset },
            Key::TransportHeader { offset } => Self::TransportHeader { offset },
            Key::Unknown => Self::Unknown,
        }
    }
}

impl From<KeyDto> for Key {
    fn from(key: KeyDto) -> Self {
        match key {
            KeyDto::InputName => Self::InputName,
            KeyDto::OutputName => Self::OutputName,
            KeyDto::Transport => Self::Transport,
            KeyDto::Family => Self::Family,
            KeyDto::EtherType => Self::EtherType,
            KeyDto::State => Self::State,
            KeyDto::NetworkHeader { offset } => Self::NetworkHeader { offset },
            KeyDto::TransportHeader { offset } => Self::TransportHeader { offset },
            KeyDto::Unknown => Self::Unknown,
        }
    }
}

impl From<&Rules> for RulesDto {
    fn from(rules: &Rules) -> Self {
        Self {
            netns: rules.netns,
            began_ns: rules.began.0,
            at_ns: rules.at.0,
            generation: rules.generation,
            bridged: rules.bridged,
            rules: rules.rules.iter().map(Into::into).collect(),
            problems: rules.problems.clone(),
        }
    }
}

impl From<RulesDto> for Rules {
    fn from(dto: RulesDto) -> Self {
        let (rules, unknown): (Vec<_>, Vec<_>) =
            dto.rules.into_iter().map(RuleDto::into_rule).partition(Option::is_some);
        let mut problems = dto.problems;
        if !unknown.is_empty() {
            problems.push(format!(
                "{} rules of the recording are of a kind that this program does not know",
                unknown.len()
            ));
        }
        Self {
            netns: dto.netns,
            began: Instant(dto.began_ns),
            at: Instant(dto.at_ns),
            generation: dto.generation,
            bridged: dto.bridged,
            rules: rules.into_iter().flatten().collect(),
            problems,
        }
    }
}

impl From<&Rule> for RuleDto {
    fn from(rule: &Rule) -> Self {
        Self {
            backend: rule.backend.name().to_owned(),
            family: rule.family.name().to_owned(),
            table: rule.table.clone(),
            chain: rule.chain.clone(),
            handle: rule.handle,
            number: rule.number,
            place: rule.place,
            hooks: rule.hooks.0,
            tests: rule.tests.iter().map(Into::into).collect(),
            complete: rule.complete,
            packets: rule.packets,
            text: rule.text.clone(),
        }
    }
}

impl RuleDto {
    /// The rule; none where its words are those of a later version.
    fn into_rule(self) -> Option<Rule> {
        Some(Rule {
            backend: Backend::ALL.into_iter().find(|known| known.name() == self.backend)?,
            family: Family::ALL.into_iter().find(|known| known.name() == self.family)?,
            table: self.table,
            chain: self.chain,
            handle: self.handle,
            number: self.number,
            place: self.place,
            hooks: Hooks(self.hooks),
            tests: self.tests.into_iter().map(Into::into).collect(),
            complete: self.complete,
            packets: self.packets,
            text: self.text,
        })
    }
}

impl From<&Test> for TestDto {
    fn from(test: &Test) -> Self {
        Self { key: test.key.into(), mask: test.mask.clone(), bounds: test.bounds.clone(), inside: test.inside }
    }
}

impl From<TestDto> for Test {
    fn from(dto: TestDto) -> Self {
        Self { key: dto.key.into(), mask: dto.mask, bounds: dto.bounds, inside: dto.inside }
    }
}
