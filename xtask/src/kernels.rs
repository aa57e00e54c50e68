//! The kernels of the matrix: Debian's packages, fetched through the machine's own apt mirror into a cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::arch::Arch;
use crate::process::{cache, execute, output};

/// A kernel of the matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    /// Its name on the command line.
    pub(crate) name: &'static str,
    /// The conntrack log format that it must have.
    pub(crate) log_format: &'static str,
    /// Of which architecture.
    pub(crate) arch: Arch,
    /// Where it may come from, the preferred source first.
    sources: &'static [Source],
}

/// Where packages of a kernel may come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// The suite, and whether it belongs to the security archive.
    suite: &'static str,
    security: bool,
    /// The version that a package's name starts with, after `linux-image-`.
    series: &'static str,
    /// Only versions older than this one: the log format changes there.
    before: Option<&'static str>,
}

pub(crate) const fn main(suite: &'static str, series: &'static str, before: Option<&'static str>) -> Source {
    Source { suite, security: false, series, before }
}

pub(crate) const fn security(suite: &'static str, series: &'static str) -> Source {
    Source { suite, security: true, series, before: None }
}

const fn spec(name: &'static str, log_format: &'static str, sources: &'static [Source]) -> Spec {
    Spec { name, log_format, arch: Arch::Amd64, sources }
}

/// All kernels, oldest log format first.
pub(crate) const ALL: &[Spec] = &[
    spec("5.10", "e1", &[security("bullseye-security", "5.10."), main("bullseye", "5.10.", None)]),
    spec(
        "6.1-e3",
        "e3",
        &[main("bookworm", "6.1.", Some("6.1.184")), main("bookworm-backports", "6.12.", Some("6.12.104"))],
    ),
    spec("6.1-e4", "e4", &[security("bookworm-security", "6.1.")]),
    spec("6.12", "e4", &[security("trixie-security", "6.12."), main("trixie", "6.12.", None)]),
    spec("7", "e4", &[main("trixie-backports", "7.", None)]),
];

impl Spec {
    /// Whether it is the oldest or the newest.
    pub(crate) fn is_at_an_end(self) -> bool {
        [ALL.first(), ALL.last()].into_iter().flatten().any(|end| end.name == self.name)
    }
}

/// A kernel that is there.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Which one.
    pub(crate) spec: Spec,
    /// Its release, as `uname -r` will print it.
    pub(crate) release: String,
    /// The image to boot.
    pub(crate) image: PathBuf,
    /// The directory that holds `modules.dep` once `depmod` has run.
    pub(crate) modules: PathBuf,
    /// Where everything of it is.
    pub(crate) directory: PathBuf,
}

/// The kernels that a selection names: a full name, or what comes before a dash (`6.1` is both of 6.1).
pub(crate) fn select(names: &[String]) -> Result<Vec<Spec>> {
    let mut selected: Vec<Spec> = Vec::new();
    for name in names {
        let matching: Vec<&Spec> = ALL
            .iter()
            .filter(|spec| name == "all" || spec.name == name || spec.name.split('-').next() == Some(name))
            .collect();
        if matching.is_empty() {
            let known: Vec<&str> = ALL.iter().map(|spec| spec.name).collect();
            bail!("no kernel `{name}`; there are {} and all", known.join(", "));
        }
        for spec in matching {
            if !selected.iter().any(|known| known.name == spec.name) {
                selected.push(*spec);
            }
        }
    }
    Ok(selected)
}

impl Spec {
    /// The same kernel of another architecture.
    pub(crate) const fn on(self, arch: Arch) -> Self {
        Self { arch, ..self }
    }

    /// Gives the kernel: from the cache, or downloaded.
    pub(crate) fn fetch(self, refresh: bool) -> Result<Kernel> {
        let home = self.arch.below(cache()?).join("kernels").join(self.name);
        if !refresh && let Some(kernel) = self.cached(&home)? {
            return Ok(kernel);
        }
        let mut failures = Vec::new();
        for source in self.sources {
            match self.download(*source, &home) {
                Ok(kernel) => return Ok(kernel),
                Err(error) => failures.push(format!("{}: {error:#}", source.suite)),
            }
        }
        bail!("no kernel for {}: {}", self.name, failures.join("; "))
    }

    /// The kernel that was downloaded last.
    fn cached(self, home: &Path) -> Result<Option<Kernel>> {
        let Ok(entries) = fs::read_dir(home) else { return Ok(None) };
        let whole = entries.flatten().map(|entry| entry.path()).find(|path| path.join("whole").exists());
        whole.map(|directory| self.unpacked(&directory)).transpose()
    }

    fn download(self, source: Source, home: &Path) -> Result<Kernel> {
        let apt = Apt::new(source, self.arch, home)?;
        println!("kernel {}: looking for {}* in {}", self.name, source.series, source.suite);
        apt.update()?;
        let mut failures = Vec::new();
        for version in apt.versions()? {
            let directory = home.join(&version.release);
            match self.download_version(&apt, &version, &directory) {
                Ok(kernel) => return Ok(kernel),
                Err(error) => {
                    println!("kernel {}: {} cannot be had whole: {error:#}", self.name, version.release);
                    failures.push(version.release);
                }
            }
        }
        bail!("none of {} can be had", if failures.is_empty() { "no versions".to_owned() } else { failures.join(", ") })
    }

    fn download_version(self, apt: &Apt, version: &Version, directory: &Path) -> Result<Kernel> {
        if directory.exists() {
            fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))?;
        }
        let debs = directory.join("debs");
        fs::create_dir_all(&debs).with_context(|| format!("creating {}", debs.display()))?;
        for package in &version.packages {
            println!("kernel {}: downloading {package}", self.name);
            apt.download(package, &debs)?;
        }
        let root = directory.join("root");
        unpack(&debs, &root)?;
        fs::remove_dir_all(&debs)?;
        let kernel = self.unpacked(directory)?;
        index_modules(&kernel)?;
        fs::write(directory.join("whole"), version.packages.join("\n"))?;
        Ok(kernel)
    }

    fn unpacked(self, directory: &Path) -> Result<Kernel> {
        let root = directory.join("root");
        let release = directory.file_name().context("a kernel without a name")?.to_string_lossy().into_owned();
        // Since the merge of /usr modules are below /usr/lib; since the split of the packages so is the image.
        let modules = ["usr/lib/modules", "lib/modules"]
            .into_iter()
            .map(|path| root.join(path).join(&release))
            .find(|path| path.is_dir())
            .with_context(|| format!("{} has no modules", root.display()))?;
        let image = [root.join("boot").join(format!("vmlinuz-{release}")), modules.join("vmlinuz")]
            .into_iter()
            .find(|path| path.exists())
            .with_context(|| format!("{} has no kernel image", root.display()))?;
        Ok(Kernel { spec: self, release, image, modules, directory: directory.to_path_buf() })
    }
}

/// Unpacks all packages of a directory into another.
pub(crate) fn unpack(debs: &Path, root: &Path) -> Result<()> {
    for file in fs::read_dir(debs).with_context(|| format!("reading {}", debs.display()))?.flatten() {
        if file.path().extension().is_some_and(|extension| extension == "deb") {
            execute(Command::new("dpkg-deb").arg("--extract").arg(file.path()).arg(root))?;
        }
    }
    Ok(())
}

/// Decompresses the modules, which a slow guest should not have to do, and writes `modules.dep`.
fn index_modules(kernel: &Kernel) -> Result<()> {
    let compressed = output(Command::new("find").arg(&kernel.modules).args(["-name", "*.ko.xz"]))?;
    let names: Vec<&str> = compressed.lines().collect();
    for batch in names.chunks(500) {
        execute(Command::new("xz").arg("--decompress").args(batch))?;
    }
    // depmod expects lib/modules below its base.
    let base = kernel.directory.join("root");
    let usr = base.join("usr");
    let base = if kernel.modules.starts_with(usr.join("lib")) { usr } else { base };
    execute(Command::new("depmod").arg("--basedir").arg(base).arg(&kernel.release))
}

/// A version of a kernel in an index.
#[derive(Debug)]
struct Version {
    release: String,
    packages: Vec<String>,
}

/// apt with lists of its own, for one suite and architecture, so that the machine's configuration stays as it is.
pub(crate) struct Apt {
    config: PathBuf,
    source: Source,
    arch: Arch,
}

impl Apt {
    pub(crate) fn new(source: Source, arch: Arch, home: &Path) -> Result<Self> {
        let directory = home.join("apt").join(source.suite);
        for part in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(directory.join(part)).with_context(|| format!("creating {}", directory.display()))?;
        }
        let archive = archive(source.security)?;
        fs::write(directory.join("sources.list"), format!("deb {archive} {} main\n", source.suite))?;
        let here = directory.display();
        let (config, architecture) = (directory.join("apt.conf"), arch.debian());
        // A suite that is no longer maintained has an index that is past its date.
        fs::write(
            &config,
            format!(
                "APT::Architecture \"{architecture}\";\nAPT::Architectures \"{architecture}\";\n\
                 Dir::State \"{here}/state\";\nDir::State::status \"/dev/null\";\nDir::Cache \"{here}/cache\";\n\
                 Dir::Etc::sourcelist \"{here}/sources.list\";\nDir::Etc::sourceparts \"-\";\n\
                 Acquire::Languages \"none\";\nAcquire::Check-Valid-Until \"false\";\n\
                 Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\nAPT::Sandbox::User \"root\";\n"
            ),
        )?;
        Ok(Self { config, source, arch })
    }

    /// Downloads packages with everything they depend on; returns their directory.
    pub(crate) fn download_with_dependencies(&self, packages: &[&str]) -> Result<PathBuf> {
        let options = ["install", "--yes", "--quiet=2", "--download-only", "--no-install-recommends"];
        output(self.command("apt-get").args(options).args(packages))?;
        Ok(self.config.with_file_name("cache").join("archives"))
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    pub(crate) fn update(&self) -> Result<()> {
        execute(self.command("apt-get").args(["update", "--quiet=2"]))
    }

    /// The versions of the series that the index has, the newest first.
    fn versions(&self) -> Result<Vec<Version>> {
        let names = output(self.command("apt-cache").arg("pkgnames"))?;
        let names: Vec<&str> = names.lines().collect();
        let prefix = format!("linux-image-{}", self.source.series);
        let suffix = format!("-cloud-{}", self.arch.debian());
        let mut found = Vec::new();
        for image in names.iter().filter(|name| name.starts_with(&prefix) && name.ends_with(&suffix)) {
            let release = image.trim_start_matches("linux-image-").to_owned();
            let version = self.package_version(image)?;
            if let Some(end) = self.source.before
                && !older(&version, end)?
            {
                continue;
            }
            // From 7.2 on the image's package is a shell around these two.
            let parts = [format!("linux-binary-{release}"), format!("linux-modules-{release}")];
            let split = parts.iter().all(|part| names.contains(&part.as_str()));
            let packages = if split { parts.to_vec() } else { vec![(*image).to_owned()] };
            found.push((version, Version { release, packages }));
        }
        // dpkg's order of versions is its own.
        let mut sorted: Vec<(String, Version)> = Vec::new();
        for (version, item) in found {
            let mut at = 0;
            while at < sorted.len() && older(&version, &sorted[at].0)? {
                at += 1;
            }
            sorted.insert(at, (version, item));
        }
        Ok(sorted.into_iter().map(|(_, item)| item).collect())
    }

    fn package_version(&self, package: &str) -> Result<String> {
        let text = output(self.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        Ok(version.with_context(|| format!("{package} has no version"))?.to_owned())
    }

    /// Downloads one package into a directory.
    pub(crate) fn download(&self, package: &str, to: &Path) -> Result<()> {
        output(self.command("apt-get").args(["download", "--quiet=2", package]).current_dir(to)).map(drop)
    }
}

fn older(version: &str, than: &str) -> Result<bool> {
    let status = Command::new("dpkg").args(["--compare-versions", version, "lt", than]).status();
    Ok(status.context("dpkg --compare-versions")?.success())
}

/// The base of Debian's archive, or of its security archive, as the machine's own configuration has it.
pub(crate) fn archive(security: bool) -> Result<String> {
    let targets = output(Command::new("apt-get").args(["indextargets", "--format", "$(REPO_URI) $(RELEASE)"]))?;
    let uri = |wanted: bool| {
        targets.lines().find_map(|line| {
            let (uri, release) = line.split_once(' ')?;
            (release.ends_with("-security") == wanted && uri.trim_end_matches('/').contains("debian")).then_some(uri)
        })
    };
    let plain = uri(false).context("apt is not configured for a Debian archive")?;
    Ok(match (security, uri(true)) {
        (false, _) => plain.to_owned(),
        (true, Some(found)) => found.to_owned(),
        // A mirror has both archives beside each other.
        (true, None) => format!("{}-security/", plain.trim_end_matches('/')),
    })
}
