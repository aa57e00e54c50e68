//! Reading what a later version may have written: a word that this version does not know leaves out the value it is in.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

/// A value that this version knows, or one of a later version.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Known<T> {
    /// A value that this version knows.
    Yes(T),
    /// Something else.
    No(IgnoredAny),
}

impl<T> Known<T> {
    /// The value, if this version knows it.
    pub fn ok(self) -> Option<T> {
        match self {
            Self::Yes(value) => Some(value),
            Self::No(IgnoredAny) => None,
        }
    }
}

/// The elements that this version knows, for `#[serde(deserialize_with)]`.
pub(crate) fn elements<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<Known<T>>::deserialize(deserializer)?.into_iter().filter_map(Known::ok).collect())
}

/// The value, if there is one and this version knows it, for `#[serde(deserialize_with)]`.
pub(crate) fn value<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Known<T>>::deserialize(deserializer)?.and_then(Known::ok))
}
