//! The loaded modules with hooked functions, and their changes.
//!
//! When a module is unloaded, the kernel disables the kprobes in it silently: the links stay, but no program runs any more, even
//! after the module is loaded again (`kprobes_module_callback`, kernel/kprobes.c).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tracer_common::Hook;

/// The directory of the modules, loaded and built in.
const MODULES: &str = "/sys/module";

/// The modules of the hooks, with the inode numbers of their directories when last read. A module gets a new number each time
/// it is loaded.
#[derive(Debug, Default)]
pub(super) struct Modules(BTreeMap<&'static str, Option<u64>>);

impl Modules {
    /// The modules of these hooks.
    pub(super) fn of(hooks: &[Hook]) -> Self {
        let modules = hooks.iter().filter_map(|hook| hook.spec().module);
        Self(modules.map(|name| (name, loaded(name))).collect())
    }

    /// The modules that were loaded or unloaded since the last call, or both.
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

/// Whether a module is loaded and ready.
pub(super) fn is_loaded(name: &str) -> bool {
    loaded(name).is_some()
}

fn loaded(name: &str) -> Option<u64> {
    let directory = Path::new(MODULES).join(name);
    let inode = fs::metadata(&directory).ok()?.ino();
    // A built-in module has no such file; while a module is loaded or unloaded its state is another one.
    let ready = fs::read_to_string(directory.join("initstate")).map_or(true, |state| state.trim() == "live");
    ready.then_some(inode)
}
