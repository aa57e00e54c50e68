//! What a rule of any backend comes to: a verdict, or something that is noted whatever the rule asks of a packet. How a
//! backend stores it is decided there.

use tracer_model::ruleset::Test;
use tracer_model::ruleset::audit::{Does, Verdict, output};

/// The terminal statement of a rule, or its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// It decides, or leads to another chain.
    Verdict(Verdict),
    /// It exempts from tracking or translates.
    Does(Does),
}

impl Terminal {
    /// What an audit notes of a rule that asks this before.
    pub(crate) fn noted(self, tests: &[Test]) -> Option<Does> {
        match self {
            Self::Verdict(verdict) => Does::to_invalid(&verdict, tests),
            Self::Does(mut does) => {
                if let Does::SourceNat(to) | Does::Masquerades(to) | Does::DestinationNat(to) = &mut does {
                    to.output = output(tests);
                }
                Some(does)
            }
        }
    }

    /// As its tool writes it.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Verdict(Verdict::Accept) => "accept".to_owned(),
            Self::Verdict(Verdict::Drop) => "drop".to_owned(),
            Self::Verdict(Verdict::Reject) => "reject".to_owned(),
            Self::Verdict(Verdict::Chain(to)) => format!("jump {to}"),
            Self::Does(Does::Untracks) => "notrack".to_owned(),
            Self::Does(Does::SourceNat(to)) => format!("snat to {to}"),
            Self::Does(Does::Masquerades(to)) if to.ports.is_none() => "masquerade".to_owned(),
            Self::Does(Does::Masquerades(to)) => format!("masquerade to {to}"),
            Self::Does(Does::DestinationNat(to)) if !to.to.is_empty() => format!("dnat to {to}"),
            Self::Does(Does::DestinationNat(to)) if to.ports.is_some() => format!("redirect to {to}"),
            Self::Does(Does::DestinationNat(_)) => "dnat".to_owned(),
            Self::Does(other) => other.name().to_owned(),
        }
    }
}
