//! A configuration file, an environment, a command line, or a name in a printed command.

/// Takes bytes whose first says what they are.
pub(crate) fn config(data: &[u8]) {
    tracer::cli::fuzzing::config(data);
}
