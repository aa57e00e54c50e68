//! All scenarios, what the report of each must name, and the kernels that each is tried on.

mod connections;
mod gateways;
mod on_demand;
mod own;

use anyhow::Result;

use super::{Context, Named, Scenario};

/// Of more than one scenario.
const SEQ_OVER: &str = "out-of-window/seq-over by gateway-stack";
const DELETED: &str = "no-entry/deleted by gateway-stack";
const REJECTED: &str = "reject-rule by gateway-reject-rule";
const NO_LISTENER: &str = "no-listener by gateway-stack";

/// The kernels that a scenario is tried on where nobody asks for it by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Every one.
    EveryKernel,
    /// The oldest and the newest: what it is about is not the kernel's.
    OldestAndNewest,
    /// None.
    OnDemand,
}

/// The scenarios in the order in which they are run.
const LISTS: [(Scope, &[Scenario]); 5] = [
    (Scope::EveryKernel, connections::LIST),
    (Scope::EveryKernel, gateways::LIST),
    (Scope::OldestAndNewest, own::LIST),
    (Scope::OnDemand, on_demand::LIST),
    (Scope::EveryKernel, gateways::LAST),
];

/// All scenarios in the order in which they are run, and where.
pub fn all() -> impl Iterator<Item = (Scope, &'static Scenario)> {
    LISTS.into_iter().flat_map(|(scope, list)| list.iter().map(move |scenario| (scope, scenario)))
}

/// The scenario of a name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    all().map(|(_, scenario)| scenario).find(|scenario| scenario.name == name)
}

const fn scenario(
    name: &'static str,
    about: &'static str,
    run: fn(&Context<'_>) -> Result<()>,
    named: Named,
) -> Scenario {
    Scenario { name, about, named, run }
}
