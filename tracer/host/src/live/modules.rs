//! Which modules are loaded, and whether one is still the one that it was.
//!
//! A kprobe dies with the module that it is in, without a word: its link stays, and nothing comes by it any more, not even
//! when the module is loaded again (`kprobes_module_callback`, kernel/kprobes.c).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tracer_common::Hook;

/// Where the kernel has a directory for each module that is loaded or built in.
const MODULES: &str = "/sys/module";

/// The modules that hooks live in, as they were when they were looked at last. Each time that a module is loaded its
/// directory gets another inode number.
#[derive(Debug, Default)]
pub(super) struct Modules(BTreeMap<&'static str, Option<u64>>);

impl Modules {
    /// The modules of these hooks, as they are now.
    pub(super) fn of(hooks: &[Hook]) -> Self {
        let modules = hooks.iter().filter_map(|hook| hook.spec().module);
        Self(modules.map(|name| (name, loaded(name))).collect())
    }

    /// The modules that have come or gone since the last time, or both.
    pub(super) fn changed(&mut self) -> Vec<&'static str> {
        let mut changed = Vec::new();
        for (name, known) in &mut self.0 {
            let now = loaded(name);
            if now != *known {
                *known = now;
                changed.push(*name);
            }
        }
        changed
    }
}

/// Whether a module is there and ready.
pub(super) fn is_loaded(name: &str) -> bool {
    loaded(name).is_some()
}

fn loaded(name: &str) -> Option<u64> {
    let directory = Path::new(MODULES).join(name);
    let inode = fs::metadata(&directory).ok()?.ino();
    // What is built in has no such file; a module that is on its way in or out has other words in it.
    let ready = fs::read_to_string(directory.join("initstate")).map_or(true, |state| state.trim() == "live");
    ready.then_some(inode)
}
