//! The bill of materials: the components of the binary, and those that took part in its build.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package, PackageId, TargetKind};
use serde_json::{Value, json};

use super::source::Source;
use crate::process::{output, workspace};

/// The packages that become machine code: of the user side, and of the BPF object.
const ROOTS: [&str; 2] = ["tracer", "tracer-ebpf"];
/// How names of files begin that have to be passed on with copies.
const NOTICES: [&str; 4] = ["LICEN", "COPYING", "NOTICE", "UNLICENSE"];

/// The dependencies, resolved for one target.
pub(super) struct Bill {
    metadata: Metadata,
    /// What is in the binary.
    inside: BTreeSet<PackageId>,
    /// What only runs while it is built: procedural macros, build scripts, and what they need.
    building: BTreeSet<PackageId>,
    /// SHA-256 of the crates' archives, by name and version.
    sums: BTreeMap<(String, String), String>,
}

impl Bill {
    pub(super) fn read(target: &str) -> Result<Self> {
        let options = ["--locked", "--filter-platform", target].map(str::to_owned).to_vec();
        let metadata = MetadataCommand::new().current_dir(workspace()).other_options(options).exec()?;
        let mut bill = Self {
            metadata,
            inside: BTreeSet::new(),
            building: BTreeSet::new(),
            sums: sums(&workspace().join("Cargo.lock"))?,
        };
        let roots: Vec<PackageId> = bill
            .metadata
            .packages
            .iter()
            .filter(|package| ROOTS.contains(&package.name.as_str()))
            .map(|package| package.id.clone())
            .collect();
        let mut open: Vec<(PackageId, bool)> = roots.into_iter().map(|id| (id, true)).collect();
        while let Some((id, inside)) = open.pop() {
            let inside = inside && !is_macro(&bill.metadata[&id]);
            let new = if inside { bill.inside.insert(id.clone()) } else { bill.building.insert(id.clone()) };
            if new {
                open.extend(bill.needs(&id).into_iter().map(|(id, normal)| (id, inside && normal)));
            }
        }
        // What is both is inside.
        bill.building = &bill.building - &bill.inside;
        Ok(bill)
    }

    /// What a package needs, and whether that becomes a part of it.
    fn needs(&self, id: &PackageId) -> Vec<(PackageId, bool)> {
        let nodes = self.metadata.resolve.iter().flat_map(|resolve| &resolve.nodes);
        let needs = nodes.filter(|node| node.id == *id).flat_map(|node| &node.deps);
        needs
            .filter_map(|dependency| {
                let kinds: Vec<DependencyKind> = dependency.dep_kinds.iter().map(|info| info.kind).collect();
                let normal = kinds.contains(&DependencyKind::Normal);
                (normal || kinds.contains(&DependencyKind::Build)).then(|| (dependency.pkg.clone(), normal))
            })
            .collect()
    }

    /// The packages of a set by name and version.
    fn packages(&self, of: &BTreeSet<PackageId>) -> Vec<&Package> {
        let mut packages: Vec<&Package> = of.iter().map(|id| &self.metadata[id]).collect();
        packages.sort_by_key(|package| (package.name.to_string(), package.version.clone()));
        packages
    }

    /// The bill in the form of `CycloneDX` 1.5.
    pub(super) fn cyclonedx(&self, source: &Source, binary: &Path) -> Result<String> {
        let digest = output(Command::new("sha256sum").arg("--").arg(binary))?;
        let digest = digest.split_whitespace().next().context("sha256sum has said nothing")?;
        let sets = [(&self.inside, "required"), (&self.building, "excluded")];
        let mut components: Vec<Value> = sets
            .into_iter()
            .flat_map(|(set, scope)| self.packages(set).into_iter().map(move |package| (package, scope)))
            .filter(|(package, _)| package.name != ROOTS[0])
            .map(|(package, scope)| self.component(package, scope))
            .collect();
        components.extend(libraries()?);
        let mut dependencies: Vec<Value> = Vec::new();
        for package in self.packages(&(&self.inside | &self.building)) {
            let mut on: Vec<String> = self
                .needs(&package.id)
                .iter()
                .filter(|(id, _)| self.inside.contains(id) || self.building.contains(id))
                .map(|(id, _)| reference(&self.metadata[id]))
                .collect();
            // The object is embedded by the build script, which cargo knows nothing of.
            if package.name == ROOTS[0] {
                on.extend(self.metadata.packages.iter().filter(|other| other.name == ROOTS[1]).map(reference));
            }
            on.sort();
            dependencies.push(json!({ "ref": reference(package), "dependsOn": on }));
        }
        let root = self.metadata.packages.iter().find(|package| package.name == ROOTS[0]).context("no tracer")?;
        let document = json!({
            "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": {
                "timestamp": source.time.to_string(),
                "component": {
                    "type": "application",
                    "bom-ref": reference(root),
                    "name": "whyrst",
                    "version": source.version,
                    "hashes": [{ "alg": "SHA-256", "content": digest }],
                    "licenses": licence(root),
                    "properties": [{ "name": "whyrst:commit", "value": source.commit }],
                },
            },
            "components": components,
            "dependencies": dependencies,
        });
        Ok(serde_json::to_string_pretty(&document)? + "\n")
    }

    fn component(&self, package: &Package, scope: &str) -> Value {
        let mut component = json!({
            "type": "library",
            "bom-ref": reference(package),
            "name": package.name.as_str(),
            "version": package.version.to_string(),
            "scope": scope,
            "licenses": licence(package),
        });
        let sum = self.sums.get(&(package.name.to_string(), package.version.to_string()));
        if package.source.is_some() {
            component["purl"] = reference(package).into();
        }
        if let Some(sum) = sum {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        if let Some(repository) = &package.repository {
            component["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
        }
        component
    }

    /// The licences and notices of what is in the binary, each text once.
    pub(super) fn notices(&self, source: &Source) -> Result<String> {
        let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut list = String::new();
        for package in self.packages(&self.inside).into_iter().filter(|package| package.source.is_some()) {
            let name = format!("{} {}", package.name, package.version);
            writeln!(list, "{name}: {}", package.license.as_deref().unwrap_or("see below"))?;
            let home = package.manifest_path.parent().context("a manifest without a directory")?;
            for entry in fs::read_dir(home).with_context(|| format!("reading {home}"))? {
                let path = entry?.path();
                let file = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_uppercase();
                if path.is_file() && NOTICES.iter().any(|start| file.starts_with(start)) {
                    let text = String::from_utf8_lossy(&fs::read(&path)?).replace("\r\n", "\n");
                    texts.entry(text.trim().to_owned()).or_default().insert(name.clone());
                }
            }
        }
        let mut all = format!("whyrst {} contains:\n\n{list}", source.version);
        let mut texts: Vec<(BTreeSet<String>, String)> = texts.into_iter().map(|(text, of)| (of, text)).collect();
        texts.sort();
        for (of, text) in texts {
            let of: Vec<&str> = of.iter().map(String::as_str).collect();
            write!(all, "\n{}\n{}:\n\n{text}\n", "-".repeat(78), of.join(", "))?;
        }
        Ok(all)
    }
}

fn is_macro(package: &Package) -> bool {
    package.targets.iter().any(|target| target.kind.contains(&TargetKind::ProcMacro))
}

/// The package's URL, as <https://github.com/package-url/purl-spec> has it.
fn reference(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// Old manifests separate the licences that one may choose from by a slash.
fn licence(package: &Package) -> Value {
    let expression = package.license.as_deref().map(|text| text.replace('/', " OR ").replace("  ", " "));
    expression.map_or_else(|| json!([]), |expression| json!([{ "expression": expression }]))
}

/// What is linked in besides crates.
fn libraries() -> Result<Vec<Value>> {
    let glibc = output(Command::new("dpkg-query").args(["--show", "--showformat=${source:Version}", "libc6-dev"]))?;
    let rustc = output(Command::new("rustc").arg("--version").current_dir(workspace()))?;
    let rustc = rustc.split_whitespace().nth(1).context("rustc prints no version")?;
    // A plus has a meaning of its own in a URL.
    let url = format!("pkg:deb/debian/glibc@{}", glibc.replace('+', "%2B"));
    Ok(vec![
        json!({ "type": "library", "bom-ref": url, "name": "glibc", "version": glibc, "scope": "required", "purl": url,
            "licenses": [{ "expression": "LGPL-2.1-or-later" }] }),
        json!({ "type": "library", "bom-ref": format!("pkg:generic/rust-std@{rustc}"), "name": "rust-std", "version": rustc,
            "scope": "required", "purl": format!("pkg:generic/rust-std@{rustc}"),
            "licenses": [{ "expression": "MIT OR Apache-2.0" }] }),
    ])
}

/// The checksums of the lock file.
fn sums(lock: &Path) -> Result<BTreeMap<(String, String), String>> {
    let text = fs::read_to_string(lock).with_context(|| format!("reading {}", lock.display()))?;
    let lock: toml::Table = text.parse().context("Cargo.lock")?;
    let packages = lock.get("package").and_then(toml::Value::as_array).context("Cargo.lock has no packages")?;
    let word = |package: &toml::Value, key: &str| package.get(key).and_then(toml::Value::as_str).map(str::to_owned);
    Ok(packages
        .iter()
        .filter_map(|package| Some(((word(package, "name")?, word(package, "version")?), word(package, "checksum")?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::Bill;

    /// The bill separates what is linked in from what only runs during the build.
    #[test]
    fn the_bill_separates_parts_from_tools() {
        let bill = Bill::read(super::super::TARGET).unwrap();
        let names = |set| bill.packages(set).iter().map(|package| package.name.to_string()).collect::<Vec<_>>();
        let (inside, building) = (names(&bill.inside), names(&bill.building));
        for name in ["aya", "clap", "serde", "aya-ebpf", "tracer-common"] {
            assert!(inside.iter().any(|known| known == name), "{name} is not in {inside:?}");
        }
        for name in ["clap_derive", "serde_derive", "bpf-toolchain"] {
            assert!(building.iter().any(|known| known == name), "{name} is not in {building:?}");
        }
        for name in ["proptest", "insta", "xtask", "whyrst-tests"] {
            assert!(!inside.iter().chain(&building).any(|known| known == name), "{name} is only for tests");
        }
        let outside = bill.packages(&bill.inside).into_iter().filter(|package| package.source.is_some());
        for package in outside {
            let key = (package.name.to_string(), package.version.to_string());
            assert!(bill.sums.contains_key(&key), "{key:?} has no checksum");
            assert!(package.license.is_some(), "{key:?} has no licence");
        }
    }
}
