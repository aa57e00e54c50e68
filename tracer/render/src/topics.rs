//! The pages of `docs/causes`, one per cause and reason: what `whyrst explain WORD` prints.

/// The page of a cause or reason.
pub fn page(word: &str) -> Option<&'static str> {
    PAGES.iter().find(|(known, _)| *known == word).map(|(_, page)| *page)
}

macro_rules! pages {
    ($($word:literal,)*) => {
        const PAGES: &[(&str, &str)] = &[$(($word, include_str!(concat!("../../../docs/causes/", $word, ".md"))),)*];
    };
}

pages! {
    "ack-over",
    "ack-under",
    "bad-checksum",
    "bad-flags",
    "closed",
    "deleted",
    "evicted",
    "expired",
    "invalid-new",
    "invalid-rst",
    "invalid-state",
    "local-socket",
    "malformed",
    "never-seen",
    "no-entry",
    "no-listener",
    "not-tracked",
    "out-of-window",
    "overshot",
    "peer-reset",
    "reject-rule",
    "seq-over",
    "seq-under",
    "table-full",
    "truncated",
    "unknown",
}

#[cfg(test)]
mod tests {
    use tracer_model::cause::{Cause, Reason};

    use super::{PAGES, page};

    #[test]
    fn every_word_has_its_page() {
        let words = Cause::ALL.iter().map(|cause| cause.name()).chain(Reason::ALL.iter().map(|reason| reason.name()));
        for word in words {
            let page = page(word).unwrap_or_else(|| panic!("no page for {word}"));
            assert!(page.starts_with(&format!("# {word}: ")), "{word}");
        }
    }

    #[test]
    fn every_page_answers_the_same_questions() {
        const QUESTIONS: [&str; 5] = [
            "What the network did",
            "What the kernel did",
            "How whyrst knows",
            "Confirm it by hand",
            "Mitigations and their cost",
        ];
        for (word, page) in PAGES {
            let asked: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
            assert_eq!(asked, QUESTIONS, "{word}");
        }
    }
}
