//! Texts: one that can name a host stays out, and one about the kernel loses what looks like an address.

/// What takes the place of a text that can name hosts, chains, sets or files.
pub(super) const LEFT_OUT: &str = "left out: redacted";

/// A text of the kernel's, or about its functions. Neither names anybody; a word that could still be an address, or the full
/// name of a host, becomes `?`.
pub(super) fn own_words(text: &str) -> String {
    let could_name = |word: &str| [".", ":"].iter().any(|mark| word.matches(mark).count() > 1);
    let word = |word: &str| if could_name(word) { "?".to_owned() } else { word.to_owned() };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// The same number of problems as there were, at most one: nobody can say what is left out more than once.
pub(super) fn problems(problems: &[String]) -> Vec<String> {
    problems.iter().take(1).map(|_| LEFT_OUT.to_owned()).collect()
}
