//! Something that should be known: of a capture, or of a host.

/// How urgent a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Connections fail because of it.
    Critical,
    /// It limits the report, or is about to do harm.
    Warning,
    /// Good to know.
    Info,
}

impl Severity {
    /// The word used for it in every output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// Something that should be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A word that scripts can rely on.
    pub id: &'static str,
    /// How urgent it is.
    pub severity: Severity,
    /// It in one line.
    pub title: String,
    /// The numbers behind it.
    pub evidence: Vec<(String, String)>,
    /// What to do about it.
    pub advice: Vec<String>,
}
