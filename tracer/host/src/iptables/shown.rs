//! Steps in words, for tests.

use tracer_model::ruleset::tables::{Action, Condition, Nat, Step};
use tracer_model::ruleset::{Family, Shown};

/// Steps, one behind the other.
pub(super) fn steps(steps: &[Step], family: Family) -> String {
    let shown = |step: &Step| match step {
        Step::If(asked) => condition(asked, family),
        Step::Do(does) => action(does),
    };
    steps.iter().map(shown).collect::<Vec<_>>().join("; ")
}

/// A condition: `~` is one that usually holds, `≈` one that varies, `?` one that is not understood.
pub(super) fn condition(asked: &Condition, family: Family) -> String {
    let joined = |all: &[Condition], word: &str| {
        let all: Vec<String> = all.iter().map(|asked| condition(asked, family)).collect();
        format!("({})", all.join(word))
    };
    match asked {
        Condition::Is(test) => Shown(test, family).to_string(),
        Condition::Element { set, .. } => format!("@{set}"),
        Condition::All(all) => joined(all, " and "),
        Condition::Any(any) => joined(any, " or "),
        Condition::Not(not) => format!("not {}", condition(not, family)),
        Condition::Constant(value) => value.to_string(),
        Condition::Usually(text) => format!("~({text})"),
        Condition::Varies(text) => format!("≈({text})"),
        Condition::NotUnderstood(text) => format!("?({text})"),
    }
}

/// An action.
pub(super) fn action(does: &Action) -> String {
    match does {
        Action::Accept => "accept".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Return => "return".to_owned(),
        Action::Jump(to) => format!("jump {to}"),
        Action::Goto(to) => format!("goto {to}"),
        Action::VerdictMap { map, .. } => format!("vmap @{map}"),
        Action::RejectWithReset => "reset".to_owned(),
        Action::RejectWithIcmp => "reject".to_owned(),
        Action::Queue { bypass } => if *bypass { "queue bypass" } else { "queue" }.to_owned(),
        Action::Untrack => "untrack".to_owned(),
        Action::Mark { and, xor } => format!("mark & {and:#x} ^ {xor:#x}"),
        Action::MarkUnknown => "mark unknown".to_owned(),
        Action::Nat(Nat::Source(to)) => format!("snat {to}"),
        Action::Nat(Nat::Masquerade(to)) => format!("masquerade {to}"),
        Action::Nat(Nat::Destination(to)) => format!("dnat {to}"),
        Action::Nat(Nat::Redirect(to)) => format!("redirect {to}"),
        Action::Synproxy => "synproxy".to_owned(),
        Action::Tproxy => "tproxy".to_owned(),
        Action::Offload { flowtable } => format!("offload @{flowtable}"),
        Action::Nothing(text) => format!("nothing({text})"),
        Action::NotUnderstood(text) => format!("?({text})"),
    }
}
