//! Where the key of a redaction comes from, and goes to.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};

use tracer_recording::redact::Key;
use tracer_recording::shown;

use super::args::{Global, Redaction};
use super::output;

/// Most bytes that are read of a file with a key.
const LONGEST: u64 = 1 << 10;

impl Redaction {
    /// The key that was asked for, a new one each time that a random one was; none where nothing is to be hidden.
    pub(super) fn key(&self, global: &Global) -> anyhow::Result<Option<Key>> {
        Ok(Some(match (&self.redact_key, &self.redact_new_key) {
            (Some(path), _) => read(path, global)?,
            (None, Some(path)) => write(path)?,
            (None, None) if self.redact => {
                let why = "redacted with a random key that is not kept; --redact-new-key FILE keeps it";
                output::say(global, why);
                random()?
            }
            (None, None) => return Ok(None),
        }))
    }
}

fn random() -> anyhow::Result<Key> {
    let mut bytes = [0; 32];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    if filled.context("getting random bytes")? < bytes.len() {
        bail!("the kernel gives no random bytes");
    }
    Ok(Key::new(bytes))
}

fn read(path: &Path, global: &Global) -> anyhow::Result<Key> {
    let what = || format!("--redact-key {}", shown(path));
    let metadata = fs::metadata(path).with_context(what)?;
    if metadata.len() > LONGEST {
        bail!("{}: {} bytes; a key is 64 hexadecimal digits", what(), metadata.len());
    }
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        output::say(
            global,
            &format!("{} can be read by others (mode {mode:o}): chmod 600 keeps it secret", shown(path)),
        );
    }
    fs::read_to_string(path).with_context(what)?.parse().with_context(what)
}

fn write(path: &Path) -> anyhow::Result<Key> {
    let what = || format!("--redact-new-key {}", shown(path));
    let key = random()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).with_context(what)?;
    writeln!(file, "{}", key.to_hexadecimal()).with_context(what)?;
    Ok(key)
}
