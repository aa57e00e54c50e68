//! "Did you mean …?"

/// The least similarity of a suggestion, from 0 to 1: as in clap.
const ALIKE: f64 = 0.7;

/// The question for an error message; empty if no word is similar.
pub(super) fn did_you_mean<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    similar(written, words).map_or_else(String::new, |word| format!("; did you mean {word}?"))
}

/// The most similar word, if one is similar enough.
pub(super) fn similar<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let alike = words.into_iter().map(|word| (strsim::jaro(written, word), word)).filter(|(alike, _)| *alike > ALIKE);
    alike.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::similar;

    #[rstest]
    #[case("seq-unter", Some("seq-under"))]
    #[case("sequnder", Some("seq-under"))]
    #[case("seq-ovre", Some("seq-over"))]
    #[case("kern.log", None)]
    #[case("", None)]
    fn suggestions(#[case] written: &str, #[case] expected: Option<&str>) {
        assert_eq!(similar(written, ["seq-under", "seq-over", "expired"]), expected);
    }
}
