//! Files that a scenario leaves behind: reports, recordings, logs. They go to the host as one tar archive on a raw disk.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result};

/// Where scenarios put their files, a directory each.
pub const DIRECTORY: &str = "/artifacts";
/// The schema of reports, as the binary under test prints it.
pub const SCHEMA: &str = "schema.json";

/// Writes the archive onto a device.
pub fn pack(directory: &Path, device: &Path) -> Result<()> {
    let disk = File::options().write(true).open(device).with_context(|| format!("opening {}", device.display()))?;
    let mut archive = tar::Builder::new(disk);
    if directory.exists() {
        archive.append_dir_all(".", directory).with_context(|| format!("packing {}", directory.display()))?;
    }
    let disk = archive.into_inner().context("ending the archive")?;
    disk.sync_all().context("writing the archive")
}

/// Unpacks the archive from a disk image.
pub fn unpack(image: &Path, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
    let image = File::open(image).with_context(|| format!("opening {}", image.display()))?;
    tar::Archive::new(image).unpack(directory).with_context(|| format!("unpacking into {}", directory.display()))
}
