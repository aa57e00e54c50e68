//! Can this host be traced? Every obstacle, each with what shows it and how to remove it. It asks the kernel what it supports,
//! and loads nothing.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};
use flate2::read::GzDecoder;

use tracer_model::health::Obstacle;

/// Capabilities that attaching needs (one or the other), by number and name (include/uapi/linux/capability.h).
const CAP_SYS_ADMIN: (u32, &str) = (21, "CAP_SYS_ADMIN");
const CAP_PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const CAP_BPF: (u32, &str) = (39, "CAP_BPF");

/// Memory that a control group has to allow: most of it is for maps, and for reading the kernel's types. With less the kernel
/// kills the program, which then cannot print why.
const MEMORY: u64 = 72 << 20;

/// The files that show what a host is, below a root that tests can choose.
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// The running host.
    pub fn running() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// A host whose `/proc` and `/sys` are below `root`.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path.trim_start_matches('/'))).ok()
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path.trim_start_matches('/')).exists()
    }

    /// What files alone show to be in the way, whatever is hooked by.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        [self.privileges(), self.lockdown(), self.btf(), self.memory()].into_iter().flatten().collect()
    }

    /// The capabilities that have an effect.
    fn effective(&self) -> Option<u64> {
        let status = self.read("/proc/self/status")?;
        let field = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
        u64::from_str_radix(field.trim(), 16).ok()
    }

    /// Debian's kernels have a level 3, its default, at which `perf_event_open` is for `CAP_SYS_ADMIN` alone.
    fn paranoid(&self) -> Option<Obstacle> {
        let level: i32 = self.read("/proc/sys/kernel/perf_event_paranoid")?.trim().parse().ok()?;
        (level > 2 && self.effective()? & (1 << CAP_SYS_ADMIN.0) == 0).then(|| {
            Obstacle::new(
                "perf-event-paranoid",
                format!("kernel.perf_event_paranoid is {level}: kprobes are for CAP_SYS_ADMIN alone, as Debian has it"),
                "`sysctl kernel.perf_event_paranoid=2`, or add CAP_SYS_ADMIN",
            )
        })
    }

    fn privileges(&self) -> Option<Obstacle> {
        let effective = self.effective()?;
        let has = |(number, _): (u32, &str)| effective & (1 << number) != 0;
        if !has(CAP_SYS_ADMIN) {
            let missing: Vec<&str> =
                [CAP_BPF, CAP_PERFMON].into_iter().filter(|cap| !has(*cap)).map(|(_, name)| name).collect();
            if !missing.is_empty() {
                return Some(Obstacle::new(
                    "no-privileges",
                    format!("this process may not load BPF programs: it has not got {}", missing.join(", ")),
                    "run whyrst as root: `sudo whyrst …`; or with those capabilities, and others for what they are needed for: \
                     see docs/security.md",
                ));
            }
        }
        let map = self.read("/proc/self/uid_map").unwrap_or_default();
        let initial = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
        (!map.is_empty() && !initial).then(|| {
            Obstacle::new(
                "user-namespace",
                "this process is root in a user namespace of its own, which gives no right to trace the kernel",
                "run whyrst as root of the host, outside the container",
            )
        })
    }

    fn lockdown(&self) -> Option<Obstacle> {
        let modes = self.read("/sys/kernel/security/lockdown")?;
        modes.contains("[confidentiality]").then(|| {
            Obstacle::new(
                "kernel-lockdown",
                "kernel lockdown is in confidentiality mode (/sys/kernel/security/lockdown): BPF may not read kernel memory",
                "boot without lockdown=confidentiality; integrity mode does not disturb whyrst",
            )
        })
    }

    /// Whether and why there are no kprobes.
    pub fn kprobes(&self) -> Option<Obstacle> {
        if self.exists("/sys/bus/event_source/devices/kprobe/type") {
            let armed = self.read("/sys/kernel/debug/kprobes/enabled");
            let disarmed = (armed.as_deref().map(str::trim) == Some("0")).then(|| {
                Obstacle::new(
                    "kprobes-disarmed",
                    "kprobes are switched off (/sys/kernel/debug/kprobes/enabled is 0)",
                    "echo 1 > /sys/kernel/debug/kprobes/enabled",
                )
            });
            return disarmed.or_else(|| self.paranoid());
        }
        let needed = ["CONFIG_KPROBES", "CONFIG_KPROBE_EVENTS"];
        let shown = match self.config() {
            Some((path, config)) => {
                let set = |option: &str| config.lines().any(|line| line == format!("{option}=y"));
                let missing: Vec<&str> = needed.into_iter().filter(|option| !set(option)).collect();
                if missing.is_empty() {
                    "/sys/bus/event_source/devices/kprobe is missing".to_owned()
                } else {
                    format!("the kernel was built without {} ({path})", missing.join(" and "))
                }
            }
            None => "/sys/bus/event_source/devices/kprobe is missing".to_owned(),
        };
        Some(Obstacle::new(
            "no-kprobes",
            format!("this kernel has no kprobes: {shown}"),
            "boot a kernel with CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y, as the distributions' own have them; from Linux \
             6.10 on, --without-kprobes shows who sent a RST, but not why",
        ))
    }

    fn btf(&self) -> Option<Obstacle> {
        (!self.exists("/sys/kernel/btf/vmlinux")).then(|| {
            Obstacle::new(
                "no-btf",
                "this kernel does not describe its types: /sys/kernel/btf/vmlinux is missing",
                "boot a kernel with CONFIG_DEBUG_INFO_BTF=y (Debian 11, Ubuntu 20.10, RHEL 8.2 and later have it)",
            )
        })
    }

    /// The control group of this process, or one that it is in, allows too little memory.
    fn memory(&self) -> Option<Obstacle> {
        let groups = self.read("/proc/self/cgroup")?;
        let limits = groups.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            let (root, file) = match controllers {
                "" => ("/sys/fs/cgroup", "memory.max"),
                "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                _ => return None,
            };
            let above = Path::new(path).ancestors().map(move |group| {
                let group = group.display().to_string();
                format!("{root}/{}/{file}", group.trim_matches('/')).replace("//", "/")
            });
            // A group without a limit says `max`.
            above.filter_map(|file| Some((self.read(&file)?.trim().parse::<u64>().ok()?, file))).min()
        });
        let (limit, file) = limits.min().filter(|(limit, _)| *limit < MEMORY)?;
        let (has, needs) = (limit >> 20, MEMORY >> 20);
        Some(Obstacle::new(
            "memory-limit",
            format!("its control group allows {has} MiB of memory ({file}); whyrst needs {needs} MiB to start"),
            format!("allow {needs} MiB: MemoryMax={needs}M in a systemd unit, --memory {needs}m of a container"),
        ))
    }

    /// The kernel's build configuration, and where it was found.
    fn config(&self) -> Option<(String, String)> {
        let packed = self.root.join("proc/config.gz");
        if let Ok(file) = fs::File::open(&packed) {
            let mut text = String::new();
            if GzDecoder::new(file).read_to_string(&mut text).is_ok() {
                return Some(("/proc/config.gz".to_owned(), text));
            }
        }
        let release = self.read("/proc/sys/kernel/osrelease")?;
        let path = format!("/boot/config-{}", release.trim());
        self.read(&path).map(|text| (path, text))
    }
}

/// What only trying shows to be in the way: program and map types and helpers that this kernel does not offer.
pub fn bpf_obstacles() -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    let fix = "boot Linux 5.10 or later with CONFIG_BPF_SYSCALL=y and CONFIG_BPF_EVENTS=y";
    match is_program_supported(ProgramType::KProbe) {
        Ok(true) => {}
        Ok(false) => {
            obstacles.push(Obstacle::new("bpf-refused", "this kernel has no BPF programs of type kprobe", fix));
        }
        Err(error) => {
            obstacles.push(Obstacle::new(
                "bpf-refused",
                format!("this kernel refuses BPF programs: {}", chain(&error)),
                fix,
            ));
        }
    }
    if !obstacles.is_empty() {
        return obstacles;
    }
    if matches!(is_map_supported(MapType::RingBuf), Ok(false)) {
        obstacles.push(Obstacle::new("bpf-refused", "this kernel has no BPF ring buffer (Linux 5.8)", fix));
    }
    let read_kernel = BpfHelper::BPF_FUNC_probe_read_kernel;
    if matches!(is_helper_supported(ProgramType::KProbe, read_kernel), Ok(false)) {
        obstacles.push(Obstacle::new(
            "bpf-refused",
            "BPF programs may not read kernel memory here (bpf_probe_read_kernel is refused)",
            "boot without lockdown=confidentiality",
        ));
    }
    obstacles
}

/// An error with everything that led to it, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use rstest::rstest;

    use super::Host;

    const ROOT: &str = "CapEff:\t000001ffffffffff\n";

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        directory
    }

    fn whats(root: &Path) -> Vec<String> {
        let host = Host::below(root);
        host.obstacles().into_iter().chain(host.kprobes()).map(|obstacle| obstacle.what).collect()
    }

    const GOOD: [(&str, &str); 3] = [
        ("proc/self/status", ROOT),
        ("sys/bus/event_source/devices/kprobe/type", "6\n"),
        ("sys/kernel/btf/vmlinux", ""),
    ];

    #[test]
    fn a_good_host_has_none() {
        assert_eq!(whats(host(&GOOD).path()), [""; 0]);
    }

    #[rstest]
    #[case::not_root(("proc/self/status", "CapEff:\t0000000000000000\n"), "it has not got CAP_BPF, CAP_PERFMON")]
    #[case::some_capabilities(("proc/self/status", "CapEff:\t0000008000001000\n"), "it has not got CAP_PERFMON")]
    #[case::container(("proc/self/uid_map", "         0     100000      65536\n"), "user namespace")]
    #[case::lockdown(("sys/kernel/security/lockdown", "none integrity [confidentiality]\n"), "confidentiality mode")]
    #[case::disarmed(("sys/kernel/debug/kprobes/enabled", "0\n"), "switched off")]
    fn one_thing_is_wrong(#[case] file: (&str, &str), #[case] expected: &str) {
        let files: Vec<_> = GOOD.into_iter().filter(|(path, _)| *path != file.0).chain([file]).collect();
        let found = whats(host(&files).path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(expected), "{found:?}");
    }

    /// With `CAP_BPF` and `CAP_PERFMON`, but not `CAP_SYS_ADMIN`.
    #[rstest]
    #[case::debian("000000c000000000", "3\n", true)]
    #[case::upstream("000000c000000000", "2\n", false)]
    #[case::root("000001ffffffffff", "3\n", false)]
    fn debian_leaves_kprobes_to_the_administrator(#[case] has: &str, #[case] level: &str, #[case] expected: bool) {
        let status = format!("CapEff:\t{has}\n");
        let mut files = GOOD.to_vec();
        files[0] = ("proc/self/status", &status);
        files.push(("proc/sys/kernel/perf_event_paranoid", level));
        let found = whats(host(&files).path());
        assert_eq!(found.iter().any(|what| what.contains("perf_event_paranoid is 3")), expected, "{found:?}");
    }

    #[test]
    fn integrity_lockdown_is_none() {
        let files =
            [GOOD.as_slice(), &[("sys/kernel/security/lockdown", "none [integrity] confidentiality\n")]].concat();
        assert_eq!(whats(host(&files).path()), [""; 0]);
    }

    /// The limit of a group above holds too; the smallest counts, and only where it is too small.
    #[rstest]
    #[case::none("0::/a/b\n", &[("sys/fs/cgroup/a/b/memory.max", "max\n")], "")]
    #[case::enough("0::/a/b\n", &[("sys/fs/cgroup/a/b/memory.max", "75497472\n")], "")]
    #[case::above("0::/a/b\n", &[("sys/fs/cgroup/a/b/memory.max", "max\n"), ("sys/fs/cgroup/a/memory.max", "16777216\n")],
        "16 MiB of memory (/sys/fs/cgroup/a/memory.max)")]
    #[case::root("0::/\n", &[("sys/fs/cgroup/memory.max", "4194304\n")], "4 MiB of memory (/sys/fs/cgroup/memory.max)")]
    #[case::old("5:memory:/c\n1:name=x:/y\n", &[("sys/fs/cgroup/memory/c/memory.limit_in_bytes", "33554432\n")],
        "32 MiB of memory (/sys/fs/cgroup/memory/c/memory.limit_in_bytes)")]
    fn memory_limits(#[case] own: &str, #[case] limits: &[(&str, &str)], #[case] expected: &str) {
        let files = [GOOD.as_slice(), &[("proc/self/cgroup", own)], limits].concat();
        let found = whats(host(&files).path());
        assert_eq!(found.len(), usize::from(!expected.is_empty()), "{found:?}");
        assert!(found.concat().contains(expected), "{found:?}");
    }

    #[test]
    fn a_kernel_without_kprobes_and_btf_shows_both() {
        let files = [
            ("proc/self/status", ROOT),
            ("proc/sys/kernel/osrelease", "6.0-odd\n"),
            ("boot/config-6.0-odd", "CONFIG_BPF=y\n# CONFIG_KPROBES is not set\n"),
        ];
        let found = whats(host(&files).path());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[1].contains("without CONFIG_KPROBES and CONFIG_KPROBE_EVENTS (/boot/config-6.0-odd)"),
            "{found:?}"
        );
        assert!(found[0].contains("/sys/kernel/btf/vmlinux is missing"), "{found:?}");
    }
}
