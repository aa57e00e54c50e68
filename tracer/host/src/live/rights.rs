//! What the capturing thread keeps of its capabilities once the hooks are attached: nothing, or what hooks take that are
//! attached later, which has an effect only while they are.

use std::io;

use rustix::thread::CapabilitySet;

use crate::privileges;
use crate::privileges::{Needed, READING_MAPS, Raised};

/// The capabilities that are still there.
#[derive(Debug, Default)]
pub(super) struct Rights {
    /// What has an effect all the time, since something was given up.
    always: Option<CapabilitySet>,
}

impl Rights {
    /// Gives up everything but what is needed `later`, for `files`, and for reading maps where they are not `readable`
    /// without it.
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

    /// Gives up what is needed for nothing that is still to come.
    pub(super) fn settle(&self, later: CapabilitySet) {
        let Some(always) = self.always else { return };
        match privileges::keep(always | later, always) {
            Ok(()) => tracing::debug!("capabilities in use: {always:?}; kept for hooks to come: {later:?}"),
            Err(error) => tracing::warn!("giving up capabilities: {error}"),
        }
    }

    /// Gives what was kept an effect, for as long as what is returned is there.
    pub(super) fn raise(&self) -> Option<Raised> {
        self.always?;
        Raised::now().inspect_err(|error| tracing::warn!("raising capabilities: {error}")).ok()
    }
}
