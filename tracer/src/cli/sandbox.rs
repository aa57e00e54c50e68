//! Confines commands that do not need this host: no capabilities, no files except those named, no network, no other programs.
//!
//! Best effort: a command runs without confinement that the kernel does not support. `--log debug` shows the result.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::{env, fs};

use anyhow::Context as _;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use tracer_host::privileges;
use tracer_host::privileges::Needed;

use super::args::{Command, Redaction};

/// The latest supported Landlock ABI; older kernels enforce the rights that they know.
const LANDLOCK: ABI = ABI::V5;

/// System calls that a command on a recording or a log does not need: other programs, other processes, the network, and
/// changes to the host.
const REFUSED: [libc::c_long; 27] = [
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_connect,
    libc::SYS_delete_module,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_listen,
    libc::SYS_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_setns,
    libc::SYS_socket,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// System calls that a tool that loads a ruleset does not need: other namespaces, mounts, other processes, and changes to the
/// host. It is started after that: `execve` stays, and Landlock decides of what.
const REFUSED_TO_TOOLS: [libc::c_long; 33] = [
    libc::SYS_accept4,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsopen,
    libc::SYS_init_module,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_kill,
    libc::SYS_listen,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_tkill,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// What a tool that loads a ruleset reads: its libraries, the names of protocols and services, and the kernel's state.
const READ_BY_TOOLS: [&str; 19] = [
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/sbin",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/protocols",
    "/etc/services",
    "/etc/hosts",
    "/etc/networks",
    "/etc/iproute2",
    "/etc/xtables",
    "/etc/ethertypes",
    "/proc",
    "/sys",
];

/// A path in the directory for the temporary file of an export. No file has this name.
static PIPED: LazyLock<PathBuf> = LazyLock::new(|| env::temp_dir().join("whyrst"));

/// The files of a command.
#[derive(Debug, Default)]
struct Files<'a> {
    needed: Vec<Needed<'a>>,
    /// The output is a series of files: new ones are created beside it, and the oldest are deleted.
    series: bool,
}

/// Gives something up but for these files, and says what was done.
type Step = fn(&Files<'_>) -> anyhow::Result<String>;

/// Confines a command that needs nothing of this host; does nothing to the others.
pub(super) fn confine(command: &Command) {
    let Some(mut files) = files(command) else { return };
    files.needed.retain(|file| path(file) != Path::new("-"));
    let steps: [(&str, Step); 3] = [("capabilities", drop_privileges), ("Landlock", landlock), ("seccomp", seccomp)];
    for (what, step) in steps {
        match step(&files) {
            Ok(done) => tracing::debug!("{what}: {done}"),
            Err(error) => tracing::debug!("{what}: not confined: {error:#}"),
        }
    }
}

/// Confines the calling thread, which starts a tool that loads a ruleset: it reads what it needs, writes the empty `/run`, starts
/// no other program, and opens no connection.
pub(super) fn confine_tool(tool: &Path) {
    let allowed = landlock_tool(tool);
    for (what, done) in [("Landlock", allowed), ("seccomp", refuse(&REFUSED_TO_TOOLS))] {
        match done {
            Ok(done) => tracing::debug!("{}: {what}: {done}", tool.display()),
            Err(error) => tracing::debug!("{}: {what}: not confined: {error:#}", tool.display()),
        }
    }
}

fn landlock_tool(tool: &Path) -> anyhow::Result<String> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut allowed: Vec<(PathBuf, BitFlags<AccessFs>)> =
        READ_BY_TOOLS.iter().map(|path| (PathBuf::from(path), reading)).collect();
    let starting = AccessFs::Execute | AccessFs::ReadFile;
    allowed.extend(interpreter(tool).into_iter().map(|path| (path, starting)));
    allowed.push((tool.to_path_buf(), starting));
    allowed.push((PathBuf::from("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile));
    allowed.push((PathBuf::from("/run"), AccessFs::from_all(LANDLOCK) & !AccessFs::Execute));
    restrict(allowed)
}

/// The dynamic linker of a program, whose path is in its first page (`PT_INTERP`).
fn interpreter(program: &Path) -> Option<PathBuf> {
    let mut page = Vec::new();
    fs::File::open(program).ok()?.take(4096).read_to_end(&mut page).ok()?;
    let mut strings = page.split(|byte| *byte == 0).filter_map(|bytes| std::str::from_utf8(bytes).ok());
    strings.find(|text| text.starts_with('/') && text.contains("/ld-")).map(PathBuf::from)
}

const fn path<'a>(file: &Needed<'a>) -> &'a Path {
    match file {
        Needed::Read(path) | Needed::Write(path) => path,
    }
}

/// The files of a command that only reads files; `None` for commands that read the kernel's state or change the host.
fn files(command: &Command) -> Option<Files<'_>> {
    let (mut files, mut series) = (Vec::new(), false);
    match command {
        Command::Report(report) if !report.source.from.is_empty() || !report.compare.is_empty() => {
            files.extend(report.source.from.iter().chain(&report.compare).map(|path| Needed::Read(path)));
            files.extend(report.output.iter().chain(&report.record).map(|path| Needed::Write(path)));
            files.extend(of_redaction(&report.redaction));
        }
        Command::Trace(trace) if !trace.source.from.is_empty() => {
            files.extend(trace.source.from.iter().map(|path| Needed::Read(path)));
            files.extend(of_redaction(&trace.redaction));
        }
        Command::Record(record) if !record.source.from.is_empty() => {
            files.extend(record.source.from.iter().map(|path| Needed::Read(path)));
            files.push(Needed::Write(&record.output));
            series = record.keeping.rotate.is_some() || record.keeping.rotate_every.is_some();
            files.extend(of_redaction(&record.redaction));
        }
        Command::Export(export) => {
            files.extend(export.from.iter().map(|path| Needed::Read(path)));
            files.extend(export.output.iter().map(|path| Needed::Write(path)));
            if !export.from.iter().all(|path| path.is_file() || path.is_dir()) {
                files.push(Needed::Write(&PIPED));
            }
            files.extend(of_redaction(&export.redaction));
        }
        Command::Explain(explain) => files.extend(explain.what.iter().map(|what| Needed::Read(Path::new(what)))),
        Command::Config | Command::Completions { .. } | Command::Schema { .. } | Command::Man { output: None, .. } => {}
        _ => return None,
    }
    Some(Files { needed: files, series })
}

fn of_redaction(redaction: &Redaction) -> impl Iterator<Item = Needed<'_>> {
    let read = redaction.redact_key.iter().map(|path| Needed::Read(path));
    read.chain(redaction.redact_new_key.iter().map(|path| Needed::Write(path)))
}

fn drop_privileges(files: &Files<'_>) -> anyhow::Result<String> {
    privileges::no_new_privileges()?;
    let kept = privileges::for_files(&files.needed)?;
    privileges::keep(kept, kept)?;
    Ok(format!("kept {kept:?}"))
}

fn landlock(files: &Files<'_>) -> anyhow::Result<String> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let everything = AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile | reading;
    let mut allowed: Vec<(PathBuf, BitFlags<AccessFs>)> = Vec::new();
    for file in &files.needed {
        match file {
            Needed::Read(path) => {
                allowed.push((path.to_path_buf(), reading));
                // A link can lead out of its directory.
                let within = fs::read_dir(path).into_iter().flatten().flatten();
                let links = within.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
                allowed.extend(links.map(|link| (link.path(), reading)));
            }
            Needed::Write(path) => {
                let directory = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
                // A temporary file has another name than the path that stands for it.
                if files.series || **path == **PIPED {
                    allowed.push((directory.to_path_buf(), everything));
                    allowed.push((path.to_path_buf(), everything));
                } else if path.exists() {
                    allowed.push((path.to_path_buf(), AccessFs::WriteFile | AccessFs::Truncate));
                } else {
                    // It is created there. Landlock knows no right for a file that does not exist yet: others there can be
                    // written to, but not read, cut off or deleted.
                    allowed.push((directory.to_path_buf(), AccessFs::MakeReg | AccessFs::WriteFile));
                }
            }
        }
    }
    // Time zones for `--time local`, and sources of random numbers for a statically linked program.
    let zones =
        ["/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/dev/random", "/dev/urandom"].map(PathBuf::from);
    allowed.extend(zones.into_iter().chain(env::var_os("TZDIR").map(PathBuf::from)).map(|path| (path, reading)));

    restrict(allowed)
}

/// Lets the calling thread reach these paths and no others, nor any address.
fn restrict(allowed: Vec<(PathBuf, BitFlags<AccessFs>)>) -> anyhow::Result<String> {
    let ruleset = Ruleset::default().handle_access(AccessFs::from_all(LANDLOCK))?;
    let mut ruleset = ruleset.handle_access(AccessNet::from_all(LANDLOCK))?.create()?;
    for (path, access) in allowed {
        // The command reports files that cannot be opened. Landlock does not handle pipes of a shell.
        let (Ok(opened), Ok(facts)) = (PathFd::new(&path), path.metadata()) else { continue };
        if facts.file_type().is_fifo() || facts.file_type().is_socket() {
            continue;
        }
        let access = if facts.is_dir() { access } else { access & AccessFs::from_file(LANDLOCK) };
        ruleset = ruleset.add_rule(PathBeneath::new(opened, access)).with_context(|| path.display().to_string())?;
    }
    let status = ruleset.restrict_self()?;
    Ok(format!("{:?}", status.ruleset))
}

fn seccomp(_: &Files<'_>) -> anyhow::Result<String> {
    refuse(&REFUSED)
}

/// Refuses system calls to the calling thread.
fn refuse(calls: &[libc::c_long]) -> anyhow::Result<String> {
    let rules: BTreeMap<i64, Vec<_>> = calls.iter().copied().map(|call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, env::consts::ARCH.try_into()?)?;
    apply_filter(&BpfProgram::try_from(filter)?)?;
    Ok(format!("{} calls are refused", calls.len()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::UdpSocket;
    use std::path::Path;
    use std::process::Command;

    use tracer_host::privileges::{Needed, no_new_privileges};

    use super::{Files, confine_tool, landlock, seccomp};

    /// What a hostile ruleset makes a tool do: start a program, read and write files of others, and end a process.
    #[test]
    fn tools_are_confined() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        fs::write(&secret, "x").unwrap();
        let cat = fs::canonicalize("/bin/cat").unwrap();
        let confined = std::thread::spawn(move || {
            no_new_privileges().unwrap();
            confine_tool(&cat);
            let runs = |program: &Path, file: &Path| Command::new(program).arg(file).output();
            let reads = |file: &Path| runs(&cat, file).unwrap().status.success();
            assert!(reads(Path::new("/proc/self/status")), "the tool itself does not run");
            let kill = rustix::process::test_kill_process(rustix::process::getpid());
            assert_eq!(kill, Err(rustix::io::Errno::PERM));
            (runs(Path::new("/bin/true"), &secret).is_ok(), reads(&secret), fs::write(&secret, "y").is_ok())
        });
        let done = confined.join().unwrap();
        // Seccomp is everywhere, Landlock is not.
        let landlocked = std::thread::spawn(|| landlock(&Files::default()).unwrap()).join().unwrap();
        if landlocked.contains("NotEnforced") {
            eprintln!("this kernel has no Landlock: {done:?}");
        } else {
            assert_eq!(done, (false, false, false));
        }
    }

    /// The confined code runs on a thread, and only that thread is confined.
    #[test]
    fn other_files_are_inaccessible() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("in")).unwrap();
        fs::create_dir(at("out")).unwrap();
        for name in ["in/a", "other"] {
            fs::write(at(name), name).unwrap();
        }
        let confined = std::thread::spawn({
            let directory = directory.path().to_path_buf();
            move || {
                let at = |name: &str| directory.join(name);
                no_new_privileges().unwrap();
                let (input, output) = (at("in"), at("out/report"));
                let needed = [Needed::Read(&input), Needed::Read(Path::new("/nonexistent")), Needed::Write(&output)];
                let landlocked = landlock(&Files { needed: needed.to_vec(), series: true });
                seccomp(&Files::default()).unwrap();
                assert_eq!(fs::read_to_string(at("in/a")).unwrap(), "in/a");
                fs::write(at("out/report"), "x").unwrap();
                // Rotation creates files and deletes the oldest.
                fs::write(at("out/report-2"), "x").unwrap();
                fs::remove_file(at("out/report-2")).unwrap();
                assert!(Command::new("/bin/true").spawn().is_err(), "another program was started");
                assert!(UdpSocket::bind("127.0.0.1:0").is_err(), "a socket was made");
                landlocked.map(|status| (status, fs::read(at("other")), fs::write(at("in/b"), "x")))
            }
        });
        match confined.join().unwrap() {
            Ok((status, read, written)) if !status.contains("NotEnforced") => {
                assert!(read.is_err() && written.is_err(), "{status}");
            }
            outcome => eprintln!("this kernel has no Landlock: {outcome:?}"),
        }
    }

    /// One output: nothing else beside it is deleted, cut off or read.
    #[test]
    fn the_directory_of_an_output_is_no_playground() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["old/output", "old/other", "new/other"] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), name).unwrap();
        }
        let confined = std::thread::spawn({
            let directory = directory.path().to_path_buf();
            move || {
                let at = |name: &str| directory.join(name);
                no_new_privileges().unwrap();
                let (old, new) = (at("old/output"), at("new/output"));
                let needed = vec![Needed::Write(&old), Needed::Write(&new)];
                landlock(&Files { needed, series: false }).map(|status| {
                    fs::write(&old, "x").unwrap();
                    fs::write(&new, "x").unwrap();
                    let refused = [
                        fs::remove_file(at("old/output")).is_err(),
                        fs::remove_file(at("old/other")).is_err(),
                        fs::remove_file(at("new/other")).is_err(),
                        fs::read(at("new/other")).is_err(),
                        fs::read(at("old/other")).is_err(),
                        fs::OpenOptions::new().write(true).open(at("old/other")).is_err(),
                        fs::write(at("old/another"), "x").is_err(),
                        fs::write(at("new/other"), "x").is_err(),
                        fs::create_dir(at("new/directory")).is_err(),
                    ];
                    (status, refused)
                })
            }
        });
        match confined.join().unwrap() {
            Ok((status, refused)) if status.contains("FullyEnforced") => assert_eq!(refused, [true; 9], "{status}"),
            outcome => eprintln!("this kernel does not know all of Landlock: {outcome:?}"),
        }
    }
}
