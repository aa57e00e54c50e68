//! The topics of `whyrst explain WORD`: a page of `docs/causes` for each cause and reason.

/// The topic of a cause or reason.
pub fn topic(word: &str) -> Option<&'static str> {
    TOPICS.iter().find(|(known, _)| *known == word).map(|(_, text)| *text)
}

macro_rules! topics {
    ($($word:literal,)*) => {
        const TOPICS: &[(&str, &str)] = &[$(($word, include_str!(concat!("../../../docs/causes/", $word, ".md"))),)*];
    };
}

topics! {
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

    use super::{TOPICS, topic};

    #[test]
    fn every_word_has_a_topic() {
        let words = Cause::ALL.iter().map(|cause| cause.name()).chain(Reason::ALL.iter().map(|reason| reason.name()));
        for word in words {
            let text = topic(word).unwrap_or_else(|| panic!("no topic for {word}"));
            assert!(text.starts_with(&format!("# {word}: ")), "{word}");
        }
    }

    #[test]
    fn every_topic_answers_the_same_questions() {
        const QUESTIONS: [&str; 5] = [
            "What the network did",
            "What the kernel did",
            "How whyrst knows",
            "Confirm it by hand",
            "Mitigations and their cost",
        ];
        for (word, text) in TOPICS {
            let asked: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
            assert_eq!(asked, QUESTIONS, "{word}");
        }
    }
}
