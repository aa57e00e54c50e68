//! Takes this process into a user, network and mount namespace of its own, for good, with two capabilities that count there.

use std::{fs, io};

use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Uid, getegid, geteuid, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::ScratchError;
use crate::privileges;

/// What loading and reading rules takes: netlink, and the raw sockets of legacy iptables.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_RAW);
/// The user that owns nothing (`DEFAULT_OVERFLOWUID`).
const NOBODY: u32 = 65_534;
/// Most bytes of address space of this process and of each tool: definitions of nft can multiply.
const MEMORY: u64 = 4 << 30;
/// Most seconds of processor time, of this process and of each tool: a tool outlives this process if that is killed.
const SECONDS: u64 = 60;
/// Most open files.
const FILES: u64 = 256;

/// Enters them.
pub(super) fn enter() -> Result<(), ScratchError> {
    let at = |step: &str| {
        let step = step.to_owned();
        move |error: io::Error| ScratchError::System { step, error }
    };
    become_nobody().map_err(at("giving up root"))?;
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| {
        let step = format!("creating a user namespace{}", missing());
        ScratchError::System { step, error: error.into() }
    })?;
    // The maps are files of root as long as the process cannot be dumped, and it cannot after a change of its user.
    set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(|error| at("mapping the user")(error.into()))?;
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("gid_map", format!("0 {} 1", group.as_raw())),
        ("uid_map", format!("0 {} 1", user.as_raw())),
    ];
    for (file, map) in maps {
        fs::write(format!("/proc/self/{file}"), map).map_err(at(&format!("writing /proc/self/{file}{}", missing())))?;
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| at("mapping the user")(error.into()))?;
    // Only now: files of a network namespace belong to the root of its user namespace, as mapped when it is created.
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .map_err(|error| at("creating a network namespace")(error.into()))?;
    own_run().map_err(at("mounting /run"))?;
    drop_rights().map_err(at("giving up capabilities"))
}

/// Becomes `nobody` if this is root, and keeps the capabilities until the namespaces are there: where only a privileged process
/// may create a user namespace, this one may.
fn become_nobody() -> io::Result<()> {
    let held = capabilities(None)?;
    let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
    if !geteuid().is_root() || !held.effective.contains(needed) {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    match set_thread_groups(&[]).and_then(|()| set_thread_res_gid(group, group, group)) {
        Ok(()) => {}
        // root of a container that has no other user is an ordinary user of the host.
        Err(error @ (Errno::PERM | Errno::INVAL)) => {
            tracing::debug!("remaining the user that this is: {error}");
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    set_keep_capabilities(true)?;
    set_thread_res_uid(user, user, user)?;
    set_keep_capabilities(false)?;
    Ok(set_capabilities(None, CapabilitySets { effective: held.permitted, ..held })?)
}

/// What stands in the way of a user namespace, as far as sysctls show it.
fn missing() -> String {
    let is = |name: &str, value: &str| {
        fs::read_to_string(format!("/proc/sys/{name}")).is_ok_and(|read| read.trim() == value)
    };
    let sysctl = [
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ];
    match sysctl.into_iter().find(|(name, value)| is(name, value)) {
        Some((name, value)) => format!(" (sysctl {} is {value})", name.replace('/', ".")),
        None if fs::metadata("/proc/self/ns/user").is_err() => " (this kernel has no user namespaces)".to_owned(),
        None => String::new(),
    }
}

/// An empty /run: the lock of legacy iptables is there, and the sockets of the host's services are not.
fn own_run() -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("tmpfs", "/run", "tmpfs", flags, c"mode=755,size=1m,nr_inodes=64")?)
}

fn drop_rights() -> io::Result<()> {
    for capability in CapabilitySet::all().iter().filter(|capability| !KEPT.contains(*capability)) {
        match remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    privileges::no_new_privileges()?;
    privileges::keep(KEPT, KEPT)?;
    let limits = [(Resource::As, MEMORY), (Resource::Cpu, SECONDS), (Resource::Nofile, FILES), (Resource::Core, 0)];
    for (resource, most) in limits {
        let limit = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(())
}
