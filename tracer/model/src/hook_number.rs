//! Hooks in recordings: by number, since `tracer_common` knows no serde.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use tracer_common::Hook;

fn known<E: de::Error>(number: u16) -> Result<Hook, E> {
    Hook::from_number(number).ok_or_else(|| E::custom(format_args!("hook {number} is not known")))
}

/// The hook of a status, with the kernel function that it is on.
pub(crate) mod with_target {
    use super::{Deserialize, Deserializer, Hook, Serialize, Serializer, known};

    #[derive(Serialize, Deserialize)]
    struct Named<T> {
        hook: u16,
        target: T,
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    pub(crate) fn serialize<S: Serializer>(hook: &Hook, serializer: S) -> Result<S::Ok, S::Error> {
        Named { hook: *hook as u16, target: hook.spec().symbol }.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hook, D::Error> {
        known(Named::<String>::deserialize(deserializer)?.hook)
    }
}

/// Counts per CPU and hook. Those of hooks that this version does not know are left out.
pub(crate) mod per_cpu {
    use super::{Deserialize, Deserializer, Hook, Serializer};

    pub(crate) fn serialize<S: Serializer>(counts: &[(u32, Hook, u64)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(counts.iter().map(|(cpu, hook, count)| (cpu, *hook as u16, count)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(u32, Hook, u64)>, D::Error> {
        let counts = Vec::<(u32, u16, u64)>::deserialize(deserializer)?.into_iter();
        Ok(counts.filter_map(|(cpu, hook, count)| Some((cpu, Hook::from_number(hook)?, count))).collect())
    }
}
