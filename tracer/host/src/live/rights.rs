//! The capabilities of the capturing thread after the hooks are attached: none, or those for hooks that are attached later.
//! The latter are effective only while it attaches them.

use std::io;

use rustix::thread::CapabilitySet;

use crate::privileges;
use crate::privileges::{Needed, READING_MAPS, Raised};

/// The remaining capabilities.
#[derive(Debug, Default)]
pub(super) struct Rights {
    /// The effective ones; `None` before [`Rights::give_up`].
    always: Option<CapabilitySet>,
}

impl Rights {
    /// Gives up all capabilities but those for `later`, for `files`, and for reading maps if they are not `readable` without.
    pub(super) fn give_up(
        &mut self,
        files: &[Needed<'_>],
        later: CapabilitySet,
        readable: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        let mut always = privileges::for_files(files)?;
        privileges::keep(always | READING_MAPS | later, always)?;
        if !readable() {
            always |= READING_MAPS;
        }
        self.always = Some(always);
        self.settle(later);
        Ok(())
    }

    /// Gives up the capabilities that no later hook needs.
    pub(super) fn settle(&self, later: CapabilitySet) {
        let Some(always) = self.always else { return };
        match privileges::keep(always | later, always) {
            Ok(()) => tracing::debug!("capabilities in use: {always:?}; kept for hooks to come: {later:?}"),
            Err(error) => tracing::warn!("giving up capabilities: {error}"),
        }
    }

    /// Makes the kept capabilities effective until the returned value is dropped.
    pub(super) fn raise(&self) -> Option<Raised> {
        self.always?;
        Raised::now().inspect_err(|error| tracing::warn!("raising capabilities: {error}")).ok()
    }
}
